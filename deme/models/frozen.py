"""The frozen parts of a text-to-image pipeline: text encoder, tokenizer and VAE."""

import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from torch import Tensor, nn

from deme.diffusion import TEXT, Condition
from deme.models.layout import is_part, read_json_object
from deme.system import (
    COPY_AGAIN,
    BadConfig,
    MissingInput,
    link_weights,
    make_parents,
    read_json,
    sha256,
    sha256_text,
)
from deme.system.diffusers_configs import NetworkConfig
from deme.system.hugging_face import transformers_quietly, variant_of

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

CLASSES = {"vae": "AutoencoderKL", "text_encoder": "CLIPTextModel", "tokenizer": "CLIPTokenizer"}
PARTS = tuple(CLASSES)
VAE_CHUNK = 8  # images per batch of the VAE, whose activations need most memory


def copy_part(source: Path, target: Path, links: bool) -> None:
    """Copy a part of a pipeline; with `links`, weights are hard links where the disk has them.

    Weights of a variant (.fp16) get the name that is loaded without naming a variant.
    """
    make_parents(target / "config.json")  # not again in a run that was moved meanwhile
    copy = link_weights if links else shutil.copyfile
    shutil.copytree(source, target, copy_function=copy, dirs_exist_ok=True)
    if (variant := variant_of(target)) is not None:
        for file in target.glob(f"*.{variant}.*"):
            if "-of-" not in file.name:  # an index names these
                file.rename(file.with_name(file.name.replace(f".{variant}.", ".")))


class FrozenEncoders:
    """VAE, text encoder and tokenizer of a pipeline's folder, each loaded at first use, in float32.

    They are no submodules of the trained model, so their weights are in none of its checkpoints.
    Raises MissingInput, BadConfig, WorkFailed.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.device = torch.device("cpu")
        missing = [part for part in PARTS if not (folder / part).is_dir()]
        if missing:
            raise MissingInput(
                f"{name} has a text-conditioned UNet, but no {', '.join(missing)}\n"
                "give the folder of the whole pipeline, as diffusers' save_pretrained writes it"
            )
        index = read_json_object(folder / "model_index.json")
        stated = {
            "vae": self._read("vae").get("_class_name"),
            "text_encoder": next(iter(self._read("text_encoder").get("architectures") or ()), None),
        }
        for part, kind in CLASSES.items():
            named = index.get(part)
            found = stated.get(part) or (named[1] if is_part(named) else None) or kind
            if str(found).removesuffix("Fast") != kind:
                raise BadConfig(
                    f"{name} has a {part} of the class {found}; only {kind} is read here"
                )

    def content_hash(self) -> str:
        """Return the hash of all that determines latents and embeddings but images and captions."""
        return sha256_text("\n".join(sha256(self.folder / part) for part in PARTS))

    @property
    def factor(self) -> int:
        """Pixels of an image per latent pixel, along each side."""
        return 2 ** (len(self._read("vae").get("block_out_channels", [64])) - 1)

    @property
    def num_channels(self) -> int:
        """Channels of an image."""
        return self._read("vae").get("in_channels") or 3

    @property
    def scale(self) -> float:
        """Factor that gives the VAE's latents about unit variance before they are diffused."""
        return self._read("vae").get("scaling_factor") or 0.18215

    @property
    def max_tokens(self) -> int:
        """Tokens of a text, begin and end tokens included; longer texts are truncated."""
        positions = self._read("text_encoder").get("max_position_embeddings", 77)
        return min(self.tokenizer.model_max_length, positions)

    @property
    def width(self) -> int:
        """Dimension of a token's embedding."""
        return self._read("text_encoder").get("hidden_size", 512)

    def _read(self, part: str) -> NetworkConfig:
        return read_json(self.folder / part / "config.json", NetworkConfig, COPY_AGAIN)

    def to(self, device: torch.device | str) -> "FrozenEncoders":
        """Use a device from now on; return self."""
        self.device = torch.device(device)
        return self

    @cached_property
    def tokenizer(self) -> "CLIPTokenizer":
        """CLIP's tokenizer."""
        return self._load("tokenizer", "CLIPTokenizer")

    @cached_property
    def _text_encoder(self) -> "CLIPTextModel":
        return self._network("text_encoder", "CLIPTextModel", dtype=torch.float32)

    @cached_property
    def _vae(self) -> diffusers.AutoencoderKL:
        return self._network("vae", "AutoencoderKL", low_cpu_mem_usage=False)

    def _load(self, part: str, kind: str, **options: object) -> Any:
        """Return what class `kind` of diffusers or transformers reads. Raises WorkFailed."""
        place = self.folder / part
        with transformers_quietly(place) as transformers:
            library = diffusers if part == "vae" else transformers
            if part != "tokenizer" and (variant := variant_of(place)) is not None:
                options["variant"] = variant
            return getattr(library, kind).from_pretrained(place, local_files_only=True, **options)

    def _network(self, part: str, kind: str, **options: object) -> nn.Module:
        """Return a network in float32. Raises WorkFailed, BadConfig if weights are missing."""
        network, found = self._load(part, kind, output_loading_info=True, **options)
        mismatched = [name for name, *_ in found.get("mismatched_keys") or []]
        lost = sorted(
            name
            for name in [*found["missing_keys"], *mismatched]
            if not name.endswith("position_ids")
        )
        if lost:
            raise BadConfig(
                f"{self.folder / part} has no values for {len(lost)} tensors, first {lost[0]}: its "
                "weights do not belong to its config.json"
            )
        return network.float().eval().requires_grad_(False)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Return token ids [B, max_tokens]; truncated texts keep their end token."""
        return self.tokenizer(
            list(texts),
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        )["input_ids"]

    def truncated(self, texts: Sequence[str]) -> int:
        """Return how many texts are truncated."""
        found = self.tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
        return sum(len(ids) > self.max_tokens for ids in found)

    @torch.no_grad()
    def embeddings(self, texts: Sequence[str]) -> Tensor:
        """Return the last hidden states [B, max_tokens, width] of the text encoder, float32."""
        return self._text_encoder.to(self.device)(self.tokens(texts).to(self.device))[0]

    def conditions(self, texts: Sequence[str]) -> Condition:
        """Return the embeddings of texts, as the UNet's argument."""
        return {TEXT: self.embeddings(texts)}

    @torch.no_grad()
    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation [B, C, h, w] of the scaled latents.

        `images` [B, 3, H, W] are in -1..1.
        """
        vae = self._vae.to(self.device)
        found = [vae.encode(p.to(self.device)).latent_dist for p in images.split(VAE_CHUNK)]
        mean, std = torch.cat([p.mean for p in found]), torch.cat([p.std for p in found])
        return mean * self.scale, std * self.scale

    @torch.no_grad()
    def images(self, latents: Tensor) -> Tensor:
        """Return the images [B, 3, H, W], approximately in -1..1, of scaled latents."""
        vae = self._vae.to(latents.device)
        return torch.cat(
            [vae.decode(p / self.scale, return_dict=False)[0] for p in latents.split(VAE_CHUNK)]
        )

    def release(self) -> None:
        """Free the networks; they are loaded again at their next use."""
        for name in ("_vae", "_text_encoder"):
            self.__dict__.pop(name, None)
