"""Latents and caption embeddings of images, computed once, cached in shards by content hash."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from deme.data import Captioned, Masked
from deme.data.pixels import to_float
from deme.diffusion import MASK, MASKED_LATENTS, Condition, ShardedRandom
from deme.system import Bar, WorkFailed, absent, files, locked, logger, make_shards, tensors

SHARD = 1024  # images in a file
CHUNK = 32  # images encoded at once
MASK_CONDITIONS = (MASK, MASKED_LATENTS)
EMPTY_CAPTION = "nothing.safetensors"  # the embedding of ""


class Encoder(Protocol):
    """The frozen parts of a pipeline: VAE and text encoders.

    `moments` returns mean and standard deviation [B, c, h, w] of the latents of images [B, C, H, W]
    in -1..1; `conditions` a network's conditioning for texts, tensors by name with a row for each.
    """

    def content_hash(self) -> str: ...

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]: ...

    def conditions(self, texts: Sequence[str]) -> Condition: ...


class CachedLatents:
    """Captioned images as a latent model takes them (`EncodedDataset`), encoded once into `cache`.

    Stored in float16 are the moments of each image's latent, those of its mirror image if
    `mirrored`, and the condition of its caption, under a hash of the images, their captions, their
    preprocessing and the encoders. Training samples a latent from the moments (Rombach et al. 2022)
    and replaces a share `caption_dropout` of the captions by the empty one; `eval_sample` takes the
    means and all captions. For images with masks, the masks and the latents of the images without
    their masked parts are conditions, too.
    """

    def __init__(
        self,
        images: Captioned,
        encoder: Encoder,
        cache: Path,
        mirrored: bool = False,
        caption_dropout: float = 0.0,
    ) -> None:
        self.images, self.mirrored, self.caption_dropout = images, mirrored, caption_dropout
        self.mask_conditions = MASK_CONDITIONS if isinstance(images, Masked) else ()
        self._hash = files.sha256_text("\n".join([images.content_hash(), encoder.content_hash()]))
        kind = "-mirrored" if mirrored else ""
        self.folder = cache / "latents" / f"{self._hash[:32]}{kind}"
        shards = {
            self.folder / f"{first:09d}.safetensors": range(first, min(first + SHARD, len(self)))
            for first in range(0, len(self), SHARD)
        }
        self._encode_missing(encoder, shards)
        empty = tensors.TensorFile(self.folder / EMPTY_CAPTION).read_all()
        self._empty = {name: _computed(value) for name, value in empty.items()}
        self._shards = [tensors.TensorFile(file) for file in shards]
        for shard, images_in_it in zip(self._shards, shards.values(), strict=True):
            found = self._empty.keys() <= shard.specs.keys()
            if shard.shape("mean")[:1] != (len(images_in_it),) or not found:
                raise WorkFailed(f"{shard.path} is damaged\ndelete it and run again")

    def __len__(self) -> int:
        return len(self.images)

    def content_hash(self) -> str:
        return self._hash

    def captions(self, indices: list[int]) -> list[str]:
        """Return the captions of images, from which a preview of training is made."""
        return self.images.captions(indices)

    def __getitems__(
        self, indices: list[int], flips: Sequence[bool] | None = None
    ) -> dict[str, Tensor]:
        """Return mean, std and condition of images, as stored; where `flips`, of mirror images."""
        wanted = [
            ("mirrored_" if flip else "", index)
            for flip, index in zip(flips or [False] * len(indices), indices, strict=True)
        ]
        return {
            "mean": torch.stack([self._row(f"{prefix}mean", index) for prefix, index in wanted]),
            "std": torch.stack([self._row(f"{prefix}std", index) for prefix, index in wanted]),
            **{name: torch.stack([self._row(name, i) for i in indices]) for name in self._empty},
            **{
                name: torch.stack([self._row(f"{prefix}{name}", index) for prefix, index in wanted])
                for name in self.mask_conditions
            },
        }

    def _row(self, name: str, index: int) -> Tensor:
        shard, row = self._shards[index // SHARD], index % SHARD
        shape = shard.specs[name][0][1:]
        size = math.prod(shape)
        mapped = shard.piece(name, row * size, (row + 1) * size)
        return mapped.clone().reshape(shape)  # the copy releases the mapping's file descriptor

    def training_sample(
        self, batch: dict[str, Tensor], draws: ShardedRandom
    ) -> tuple[Tensor, Condition]:
        """Return latents sampled from the moments, and conditions after caption dropout."""
        mean = batch["mean"].float()
        given = {name: _computed(batch[name]) for name in self._empty}
        x0 = mean + batch["std"].float() * draws.normal(mean.shape[1:]).to(mean)
        if self.caption_dropout:
            dropped = draws.coins(self.caption_dropout).to(mean.device)
            for name, value in given.items():
                rows = dropped.view(-1, *[1] * (value.ndim - 1))
                given[name] = torch.where(rows, self._empty[name].to(value), value)
        return x0, given | {name: batch[name].float() for name in self.mask_conditions}

    def eval_sample(self, indices: list[int]) -> tuple[Tensor, Condition]:
        """Return the means of the latents and the conditions."""
        batch = self.__getitems__(indices)
        names = (*self._empty, *self.mask_conditions)
        return batch["mean"].float(), {name: _computed(batch[name]) for name in names}

    def _encode_missing(self, encoder: Encoder, shards: Mapping[Path, range]) -> None:
        """Encode missing shards: processes share them, a kill loses one."""
        empty = self.folder / EMPTY_CAPTION
        with locked(empty.with_suffix(".lock"), lambda _: None):
            if not empty.exists():
                found = encoder.conditions([""])
                tensors.save(empty, {name: _stored(value) for name, value in found.items()})
        if not absent(shards):
            return
        num_encoded = make_shards(
            shards,
            lambda file, images, bar: tensors.save(file, self._shard(encoder, images, bar)),
            "encoding images and captions",
        )
        size = sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))
        logger.info(
            f"encoded {num_encoded:,} images and captions: {size / 1e6:,.1f} MB in {self.folder}"
        )

    def _shard(self, encoder: Encoder, indices: Sequence[int], bar: Bar) -> dict[str, Tensor]:
        parts: list[dict[str, Tensor]] = []
        for start in range(0, len(indices), CHUNK):
            parts.append(self._encoded(encoder, list(indices[start : start + CHUNK])))
            bar.advance(len(parts[-1]["mean"]))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _encoded(self, encoder: Encoder, indices: list[int]) -> dict[str, Tensor]:
        pixels = to_float(self.images.__getitems__(indices))
        mean, std = encoder.moments(pixels)
        conditioning = encoder.conditions(self.images.captions(indices))
        found = {"mean": mean, "std": std, **conditioning}
        if self.mirrored:
            found["mirrored_mean"], found["mirrored_std"] = encoder.moments(pixels.flip(3))
        if isinstance(self.images, Masked):
            masks = self.images.masks(indices).float() / 255
            found |= _mask_conditions(encoder, pixels, masks)
            if self.mirrored:
                mirror = _mask_conditions(encoder, pixels.flip(3), masks.flip(3))
                found |= {f"mirrored_{name}": value for name, value in mirror.items()}
        stored = {name: _stored(value) for name, value in found.items()}
        if bad := [name for name, value in stored.items() if not bool(torch.isfinite(value).all())]:
            raise WorkFailed(
                f"the encoders return NaN or infinite values for {bad[0]} "
                f"among images {indices[0]} to {indices[-1]}\n"
                "the weights of the VAE or the text encoder are damaged; copy them again"
            )
        return stored


def _mask_conditions(encoder: Encoder, pixels: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Return the masks [B, 1, h, w] at the size of latents, and the latents of what is not masked.

    As in diffusers' inpainting pipeline: masked pixels become grey, and masks are downsampled by
    nearest neighbour.
    """
    known, _ = encoder.moments(pixels * (1 - masks))
    small = torch.nn.functional.interpolate(masks, size=known.shape[-2:])
    return dict(zip(MASK_CONDITIONS, (small, known), strict=True))


def _stored(value: Tensor) -> Tensor:
    """Return a tensor as it is stored: numbers in float16, masks as they are."""
    return (value.half() if value.is_floating_point() else value).cpu()


def _computed(value: Tensor) -> Tensor:
    """Return a stored tensor as it is computed with."""
    return value.float() if value.is_floating_point() else value
