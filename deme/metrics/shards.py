"""Features of many images, shard by shard: a kill loses one shard, and several processes share the work."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from deme.metrics.features import FeatureExtractor
from deme.metrics.text_score import TextScore
from deme.system import files, tensors
from deme.system.errors import WorkFailed

Say = Callable[[str], None]
Pixels = Callable[[Sequence[int]], Iterable[Tensor]]


class FeatureShards:
    """Features of images 0 .. total - 1 by every extractor, `size` images to a file below `folder`.

    A file holds [count, dimension] under the suffix of each extractor, and appears whole. Whoever fills takes the shards that
    nobody else holds; the locks are the system's, so a killed process leaves none behind.
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

    def fill(
        self,
        pixels: Pixels,
        extractors: Sequence[FeatureExtractor | TextScore],
        say: Say,
        finished: Callable[[], bool] = lambda: False,
    ) -> None:
        """Extract what is missing from `pixels(indices)`, and return when all is there, whoever made it.

        A helper gives `finished`, which says that the shards were used and may be gone. Raises WorkFailed for NaN or
        infinite features, or for another number of images than asked for.
        """
        began, fresh = time.monotonic(), 0
        while missing := [first for first in self.firsts if not self.path(first).exists()]:
            if finished():
                return
            before = fresh
            for first in missing:
                with files.try_locked(self.path(first).with_suffix(".lock")) as mine:
                    if not mine or self.path(first).exists() or finished():
                        continue
                    tensors.save(self.path(first), self._extract(pixels, first, extractors))
                fresh += self.count(first)
                done = sum(self.count(f) for f in self.firsts if self.path(f).exists())
                left = (time.monotonic() - began) / fresh * (self.total - done)
                say(f"{done}/{self.total} images, {left:.0f} s left")
            if fresh == before:
                time.sleep(0.1)  # the rest is in the hands of other processes

    def _extract(
        self, pixels: Pixels, first: int, extractors: Sequence[FeatureExtractor | TextScore]
    ) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {extractor.suffix: [] for extractor in extractors}
        count = 0
        for batch in pixels(range(first, first + self.count(first))):
            count += len(batch)
            for extractor in extractors:
                features = extractor(batch)
                if not bool(torch.isfinite(features).all()):
                    raise WorkFailed(
                        f"{extractor.name}: NaN or infinite features among images {first} to {first + self.count(first) - 1}\n"
                        "the model or the extractor's weights are damaged"
                    )
                parts[extractor.suffix].append(features)
        if count != self.count(first):
            raise WorkFailed(
                f"{self.count(first)} images were asked for from number {first} on, {count} came"
            )
        return {suffix: torch.cat(features) for suffix, features in parts.items()} or {
            "count": torch.tensor([count])
        }

    def read(self, suffix: str) -> Iterator[Tensor]:
        """Yield the features of one extractor shard by shard."""
        for first in self.firsts:
            yield tensors.TensorFile(self.path(first)).read(suffix)

    def remove(self) -> None:
        """Delete the files and locks."""
        for file in self.folder.glob("features_*"):
            file.unlink()
