"""The frozen parts of a pipeline, used through diffusers' own pipeline class."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import diffusers
import torch
from torch import Tensor

from deme.diffusion import Condition
from deme.models.frozen import VAE_CHUNK
from deme.models.layout import is_part, read_json_object
from deme.system import COPY_AGAIN, BadConfig, MissingInput, read_json, sha256, sha256_text
from deme.system.diffusers_configs import NetworkConfig
from deme.system.hugging_face import quietly, transformers_quietly, variant_of

# (pipeline, texts) -> the condition of the network by the names of its arguments
Encode = Callable[[Any, Sequence[str]], Condition]


class PipelineEncoders:
    """VAE and text encoders of the pipeline in a folder, loaded at first use, in float32.

    `part` is the trained network's, which is not loaded. They are no submodules of the trained
    model, so their weights are in none of its checkpoints. Raises MissingInput, BadConfig,
    WorkFailed.
    """

    def __init__(self, folder: Path, name: str, pipeline: str, part: str, encode: Encode) -> None:
        self.folder, self.name = folder, name
        self.device = torch.device("cpu")
        self._class, self._part, self._encode = pipeline, part, encode
        index = read_json_object(folder / "model_index.json")
        if not index:
            raise MissingInput(
                f"{name} has no model_index.json\n"
                "give the folder of the whole pipeline, as diffusers' save_pretrained writes it"
            )
        if index.get("_class_name") != pipeline:
            raise BadConfig(
                f"{name} is a {index.get('_class_name')}; with this network only a {pipeline} is "
                "read here"
            )
        own = (part, "scheduler")
        self.parts = sorted(
            each for each, value in index.items()
            if is_part(value) and value != [None, None] and each not in own
        )  # fmt: skip
        if missing := [each for each in self.parts if not (folder / each).is_dir()]:
            raise MissingInput(
                f"{name} has no folder {', '.join(missing)}, which its model_index.json names\n"
                "give the folder of the whole pipeline, as diffusers' save_pretrained writes it"
            )

    def content_hash(self) -> str:
        """Return the hash of all that determines latents and conditions but images and captions."""
        index = read_json_object(self.folder / "model_index.json")
        flags = {n: value for n, value in index.items() if not is_part(value) and n[0] != "_"}
        hashes = [sha256(self.folder / part) for part in self.parts]
        return sha256_text("\n".join([*hashes, repr(sorted(flags.items()))]))

    @cached_property
    def _vae_config(self) -> NetworkConfig:
        return read_json(self.folder / "vae" / "config.json", NetworkConfig, COPY_AGAIN)

    @property
    def factor(self) -> int:
        """Pixels of an image per latent pixel, along each side."""
        stated = self._vae_config
        blocks = stated.get("encoder_block_out_channels") or stated.get("block_out_channels", [64])
        return 2 ** (len(blocks) - 1)

    @property
    def num_channels(self) -> int:
        """Channels of an image."""
        return self._vae_config.get("in_channels") or 3

    def truncated(self, texts: Sequence[str]) -> int:
        """Return how many texts are too long for all text encoders, if these are CLIP's.

        Else 0: how long a text for another encoder may be is known inside diffusers' pipeline
        alone. Only tokenizers are loaded.
        """
        from transformers import CLIPTokenizer

        index = read_json_object(self.folder / "model_index.json")
        named = {p: str(index[p]) for p in self.parts if p.startswith("tokenizer")}
        if not texts or not all("CLIPTokenizer" in kind for kind in named.values()):
            return 0
        too_long = []
        for part in named:
            with transformers_quietly(self.folder / part):
                tokenizer = CLIPTokenizer.from_pretrained(self.folder / part, local_files_only=True)
                found = tokenizer(list(texts), verbose=False)["input_ids"]
            too_long.append([len(ids) > tokenizer.model_max_length for ids in found])
        return sum(map(all, zip(*too_long, strict=True)))

    def to(self, device: torch.device | str) -> Self:
        """Use a device from now on; return self."""
        self.device = torch.device(device)
        return self

    @cached_property
    def _pipeline(self) -> Any:
        variants = {variant_of(self.folder / part) for part in self.parts} - {None}
        options = {"variant": variants.pop()} if len(variants) == 1 else {}
        with transformers_quietly(self.folder):
            pipeline = getattr(diffusers, self._class).from_pretrained(
                self.folder,
                **{self._part: None},
                torch_dtype=torch.float32,
                local_files_only=True,
                **options,
            )
        for part in self.parts:
            if isinstance(network := getattr(pipeline, part), torch.nn.Module):
                network.eval().requires_grad_(False)
        return pipeline

    @torch.no_grad()
    def conditions(self, texts: Sequence[str]) -> Condition:
        """Return the network's conditioning for texts, a row for each."""
        with quietly():  # about texts that are cut, see `truncated`
            return self._encode(self._pipeline.to(self.device), list(texts))

    @property
    def _scale(self) -> tuple[float, float]:
        """The factor and the shift that give the latents about unit variance."""
        stated = self._pipeline.vae.config  # with the defaults of its class
        return stated.get("scaling_factor") or 1.0, stated.get("shift_factor") or 0.0

    @torch.no_grad()
    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation [B, C, h, w] of the scaled latents.

        `images` [B, 3, H, W] are in -1..1. A VAE without a distribution has the deviation 0.
        """
        vae, (scale, shift) = self._pipeline.vae.to(self.device), self._scale
        means, deviations = [], []
        for part in images.split(VAE_CHUNK):
            found = vae.encode(part.to(self.device))
            known = getattr(found, "latent_dist", None)
            means.append(found.latent if known is None else known.mean)
            deviations.append(torch.zeros_like(means[-1]) if known is None else known.std)
        return (torch.cat(means) - shift) * scale, torch.cat(deviations) * scale

    @torch.no_grad()
    def images(self, latents: Tensor) -> Tensor:
        """Return the images [B, 3, H, W], approximately in -1..1, of scaled latents."""
        vae, (scale, shift) = self._pipeline.vae.to(latents.device), self._scale
        parts = [part / scale + shift for part in latents.split(VAE_CHUNK)]
        return torch.cat([vae.decode(part, return_dict=False)[0] for part in parts])

    def release(self) -> None:
        """Free the networks; they are loaded again at their next use."""
        self.__dict__.pop("_pipeline", None)
