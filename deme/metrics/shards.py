"""Features of many images, shard by shard: a kill loses one shard, and processes share the work."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from deme.metrics.features import ImageNetwork
from deme.system import NotFinite, WorkFailed, absent, make_shards, tensors
from deme.system.tensors import is_finite

Pixels = Callable[[Sequence[int]], Iterable[Tensor]]


class FeatureShards:
    """Features of images 0 .. total - 1 by every extractor, `size` images to a file in `folder`.

    A file holds [count, dimension] under the suffix of each extractor, and appears whole.
    """

    def __init__(self, folder: Path, total: int, size: int) -> None:
        self.folder, self.total = folder, total
        self.files = {
            self.path(first): range(first, min(first + size, total))
            for first in range(0, total, size)
        }

    def path(self, first: int) -> Path:
        """Return the file of the shard that starts with image `first`."""
        return self.folder / f"features_{first:07d}.safetensors"

    def missing(self) -> list[Path]:
        """Return the shards that are not there yet."""
        return list(absent(self.files))

    def fill(
        self,
        pixels: Pixels,
        extractors: Sequence[ImageNetwork],
        name: str = "features",
        finished: Callable[[], bool] = lambda: False,
    ) -> None:
        """Extract what is missing from `pixels(indices)`, and return when all shards exist.

        For `name` and `finished` see `make_shards`. Raises WorkFailed for NaN or infinite features,
        or for another number of images than asked for.
        """
        make_shards(
            self.files,
            lambda file, images, _: tensors.save(file, self._extract(pixels, images, extractors)),
            name,
            finished,
        )

    def _extract(
        self, pixels: Pixels, images: range, extractors: Sequence[ImageNetwork]
    ) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {extractor.suffix: [] for extractor in extractors}
        count = 0
        for batch in pixels(images):
            count += len(batch)
            for extractor in extractors:
                features = extractor(batch)
                if not is_finite(features):
                    raise NotFinite(
                        f"{extractor.name}: NaN or infinite features among images {images[0]} to "
                        f"{images[-1]}\nthe model or the extractor's weights are damaged"
                    )
                parts[extractor.suffix].append(features)
        if count != len(images):
            raise WorkFailed(
                f"{count} images came, {len(images)} were expected from number {images[0]}"
            )
        return {suffix: torch.cat(features) for suffix, features in parts.items()} or {
            "count": torch.tensor([count])
        }

    def read(self, suffix: str) -> Iterator[Tensor]:
        """Yield the features of one extractor shard by shard."""
        for file in self.files:
            yield tensors.TensorFile(file).read(suffix)
