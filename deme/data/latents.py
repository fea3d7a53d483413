"""Latents and caption embeddings of images, computed once and kept in shards; made again when anything they follow from changes."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from deme.data import Captioned, to_float
from deme.diffusion.conditioning import TEXT, Condition
from deme.diffusion.seeds import ShardedRandom
from deme.system import files, tensors
from deme.system.errors import WorkFailed

SHARD = 1024  # images in a file
CHUNK = 32  # images encoded at once
PROGRESS_SECONDS = 15


class Encoder(Protocol):
    """The frozen parts of a pipeline. `moments`: mean and standard deviation [B, c, h, w] of images [B, C, H, W] in -1..1."""

    def content_hash(self) -> str: ...

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]: ...

    def embeddings(self, texts: Sequence[str]) -> Tensor: ...


class CachedLatents:
    """Captioned images as a latent model sees them (`Prepared`): encoded where they are not in `cache` yet.

    Kept are, in float16, the moments of each image's latent, those of its mirror image if `mirrored`, and the embedding of its
    caption, under a hash of the images, their captions and crop, and the encoders. Training draws a latent from the moments
    (Rombach et al. 2022) and leaves out a share `caption_dropout` of the captions; `clean` takes means and all captions.
    """

    def __init__(
        self,
        images: Captioned,
        encoder: Encoder,
        cache: Path,
        mirrored: bool = False,
        caption_dropout: float = 0.0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.images, self.mirrored, self.caption_dropout = images, mirrored, caption_dropout
        self._hash = files.sha256_text("\n".join([images.content_hash(), encoder.content_hash()]))
        self.folder = cache / "latents" / f"{self._hash[:32]}{'-mirrored' if mirrored else ''}"
        self._fill(encoder, say)
        self._nothing = tensors.TensorFile(self.folder / "nothing.safetensors").read(TEXT).float()
        self._shards = [
            tensors.TensorFile(self._path(first)) for first in range(0, len(images), SHARD)
        ]

    def __len__(self) -> int:
        return len(self.images)

    def content_hash(self) -> str:
        return self._hash

    def captions(self, indices: list[int]) -> list[str]:
        """Return the captions of images."""
        return self.images.captions(indices)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """Return mean, std and embedding of images, float16; indices from `len` on are the mirror images."""
        mirror, at = zip(*(divmod(index, len(self)) for index in indices), strict=True)
        names = ("mean", "std")
        found = {
            name: [
                self._row(f"mirrored_{name}" if m else name, i)
                for m, i in zip(mirror, at, strict=True)
            ]
            for name in names
        }
        found[TEXT] = [self._row(TEXT, i) for i in at]
        return {name: torch.stack(rows) for name, rows in found.items()}

    def _row(self, name: str, index: int) -> Tensor:
        shard, row = self._shards[index // SHARD], index % SHARD
        shape = shard.specs[name][0][1:]
        size = math.prod(shape)
        return (
            shard.piece(name, row * size, (row + 1) * size).clone().reshape(shape)
        )  # a mapping holds a descriptor

    def training_sample(
        self, batch: dict[str, Tensor], draws: ShardedRandom
    ) -> tuple[Tensor, Condition]:
        """Return a latent drawn from each image's moments, and the embeddings, some of them those of no caption."""
        mean, text = batch["mean"].float(), batch[TEXT].float()
        x0 = mean + batch["std"].float() * draws.normal(mean.shape[1:]).to(mean)
        if self.caption_dropout:
            dropped = draws.coins(self.caption_dropout).to(text.device)
            text = torch.where(dropped[:, None, None], self._nothing.to(text), text)
        return x0, {TEXT: text}

    def eval_sample(self, indices: list[int]) -> tuple[Tensor, Condition]:
        """Return the means of the latents and the embeddings."""
        batch = self.__getitems__(indices)
        return batch["mean"].float(), {TEXT: batch[TEXT].float()}

    def _path(self, first: int) -> Path:
        return self.folder / f"{first:09d}.safetensors"

    def _fill(self, encoder: Encoder, say: Callable[[str], None]) -> None:
        """Encode what is missing, shard by shard: a kill loses one, and several processes share them."""
        nothing = self.folder / "nothing.safetensors"
        with files.locked(nothing.with_suffix(".lock"), lambda _: None):
            if not nothing.exists():
                tensors.save(nothing, {TEXT: encoder.embeddings([""]).half().cpu()})
        firsts, began, fresh, said = (
            range(0, len(self), SHARD),
            time.monotonic(),
            0,
            time.monotonic(),
        )
        while missing := [first for first in firsts if not self._path(first).exists()]:
            before = fresh
            for first in missing:
                with files.try_locked(self._path(first).with_suffix(".lock")) as mine:
                    if not mine or self._path(first).exists():
                        continue
                    stop = min(first + SHARD, len(self))
                    parts: dict[str, list[Tensor]] = {}
                    for low in range(first, stop, CHUNK):
                        for name, value in self._encoded(
                            encoder, list(range(low, min(low + CHUNK, stop)))
                        ).items():
                            parts.setdefault(name, []).append(value)
                        fresh += min(CHUNK, stop - low)
                        if (now := time.monotonic()) - said > PROGRESS_SECONDS:
                            said = now
                            say(
                                f"  encoding images and captions: {fresh / (now - began):.1f} a second, from {low} of {len(self)}"
                            )
                    tensors.save(
                        self._path(first),
                        {name: torch.cat(values) for name, values in parts.items()},
                    )
            if fresh == before:
                time.sleep(0.1)  # the rest is in the hands of other processes
        if fresh:
            size = sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))
            say(
                f"encoded {fresh} images and captions in {time.monotonic() - began:.0f} s: {size / 1e6:,.1f} MB in {self.folder}"
            )

    def _encoded(self, encoder: Encoder, indices: list[int]) -> dict[str, Tensor]:
        pixels = to_float(self.images.__getitems__(indices))
        mean, std = encoder.moments(pixels)
        found = {"mean": mean, "std": std, TEXT: encoder.embeddings(self.images.captions(indices))}
        if self.mirrored:
            found["mirrored_mean"], found["mirrored_std"] = encoder.moments(pixels.flip(3))
        kept = {name: value.half().cpu() for name, value in found.items()}
        if bad := [name for name, value in kept.items() if not bool(torch.isfinite(value).all())]:
            raise WorkFailed(
                f"the encoders give NaN or infinite values for {bad[0]} among images {indices[0]} to {indices[-1]}\n"
                "the weights of the VAE or the text encoder are damaged; copy them again from where they came"
            )
        return kept
