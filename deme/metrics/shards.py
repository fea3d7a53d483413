"""Features of many images, shard by shard: a kill loses one shard, and processes share the work."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from deme.metrics.features import ImageNetwork
from deme.system import WorkFailed, files, progress, tensors

Pixels = Callable[[Sequence[int]], Iterable[Tensor]]


class FeatureShards:
    """Features of images 0 .. total - 1 by every extractor, `size` images to a file in `folder`.

    A file holds [count, dimension] under the suffix of each extractor, and appears whole. Processes
    take the shards that no other process holds; the locks are the operating system's, so a killed
    process leaves none behind.
    """

    def __init__(self, folder: Path, total: int, size: int) -> None:
        self.folder, self.total, self.size = folder, total, size
        self.firsts = list(range(0, total, size))

    def path(self, first: int) -> Path:
        """Return the file of the shard that starts with image `first`."""
        return self.folder / f"features_{first:07d}.safetensors"

    def count(self, first: int) -> int:
        """Return how many images the shard that starts with image `first` has."""
        return min(self.size, self.total - first)

    def missing(self) -> list[int]:
        """Return the first images of the shards that are not there yet."""
        return [first for first in self.firsts if not self.path(first).exists()]

    def fill(
        self,
        pixels: Pixels,
        extractors: Sequence[ImageNetwork],
        name: str = "features",
        finished: Callable[[], bool] = lambda: False,
    ) -> None:
        """Extract what is missing from `pixels(indices)`, and return when all shards exist.

        Progress is shown as `name`. A helper process passes `finished`, true once the shards have
        been used and may have been deleted. Raises WorkFailed for NaN or infinite features, or for
        another number of images than asked for.
        """
        done = self.total - sum(map(self.count, self.missing()))
        with progress(name, self.total, "images", start=done) as bar:
            while (missing := self.missing()) and not finished():
                for first in missing:
                    with files.locked(self.path(first).with_suffix(".lock"), None) as mine:
                        if mine and not self.path(first).exists() and not finished():
                            tensors.save(self.path(first), self._extract(pixels, first, extractors))
                    now = self.total - sum(map(self.count, self.missing()))
                    bar.advance(now - done)
                    done = now
                if self.missing() == missing:
                    time.sleep(0.1)  # other processes are at work on the rest

    def _extract(
        self, pixels: Pixels, first: int, extractors: Sequence[ImageNetwork]
    ) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {extractor.suffix: [] for extractor in extractors}
        expected, count = self.count(first), 0
        for batch in pixels(range(first, first + expected)):
            count += len(batch)
            for extractor in extractors:
                features = extractor(batch)
                if not bool(torch.isfinite(features).all()):
                    raise WorkFailed(
                        f"{extractor.name}: NaN or infinite features among images {first} to "
                        f"{first + expected - 1}\nthe model or the extractor's weights are damaged"
                    )
                parts[extractor.suffix].append(features)
        if count != expected:
            raise WorkFailed(f"{count} images came, {expected} were expected from number {first}")
        return {suffix: torch.cat(features) for suffix, features in parts.items()} or {
            "count": torch.tensor([count])
        }

    def read(self, suffix: str) -> Iterator[Tensor]:
        """Yield the features of one extractor shard by shard."""
        for first in self.firsts:
            yield tensors.TensorFile(self.path(first)).read(suffix)
