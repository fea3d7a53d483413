"""The frozen parts of a text-to-image pipeline: captions to embeddings, images to latents and back."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deme.system.errors import BadConfig, MissingInput
from deme.system.files import read_json, sha256, sha256_text
from deme.system.hugging_face import transformers_quietly, unreadable

PARTS = ("vae", "text_encoder", "tokenizer")
VAE_CHUNK = 8  # images in the autoencoder at once: its activations are the largest of all


class FrozenEncoders:
    """VAE, text encoder and tokenizer of a pipeline's folder, each loaded when it is first asked for, in float32.

    No part of the model that is trained: their weights are in none of its states. Raises MissingInput, BadConfig, WorkFailed.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.device = torch.device("cpu")
        missing = [part for part in PARTS if not (folder / part).is_dir()]
        if missing:
            raise MissingInput(
                f"{name} has a UNet that is told texts, but no {', '.join(missing)}\n"
                "give the folder of the whole pipeline, as diffusers' save_pretrained writes it"
            )

    def content_hash(self) -> str:
        """Return the hash of everything that latents and embeddings follow from, beside images and captions."""
        return sha256_text("\n".join(sha256(self.folder / part) for part in PARTS))

    @property
    def factor(self) -> int:
        """How many pixels a side of a latent stands for."""
        return int(2 ** (len(self._config("vae")["block_out_channels"]) - 1))

    @property
    def num_channels(self) -> int:
        """Channels of an image."""
        return int(self._config("vae").get("in_channels", 3))

    @property
    def scale(self) -> float:
        """Latents of the VAE times this have about unit variance; it is what is denoised."""
        return float(self._config("vae").get("scaling_factor", 0.18215))

    @property
    def max_tokens(self) -> int:
        """How many tokens of a text are read, beginning and end included; longer ones are cut before the end token."""
        return int(
            min(
                self.tokenizer.model_max_length,
                self._config("text_encoder")["max_position_embeddings"],
            )
        )

    @property
    def width(self) -> int:
        """The length of a token's embedding."""
        return int(self._config("text_encoder")["hidden_size"])

    def _config(self, part: str) -> Any:
        return read_json(self.folder / part / "config.json")

    def to(self, device: torch.device | str) -> "FrozenEncoders":
        """Use a device from now on; return self."""
        self.device = torch.device(device)
        return self

    @cached_property
    def tokenizer(self) -> Any:
        """CLIP's tokenizer."""
        with self._reading("tokenizer") as (place, transformers):
            return transformers.CLIPTokenizer.from_pretrained(place, local_files_only=True)

    @cached_property
    def _text_encoder(self) -> Any:
        with self._reading("text_encoder") as (place, transformers):
            read = transformers.CLIPTextModel.from_pretrained
            network, found = read(
                place, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
        return self._complete("text_encoder", network, found)

    @cached_property
    def _vae(self) -> Any:
        from diffusers import AutoencoderKL

        with self._reading("vae") as (place, _):
            read = AutoencoderKL.from_pretrained
            network, found = read(
                place, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
            )
        return self._complete("vae", network, found)

    @contextlib.contextmanager
    def _reading(self, part: str) -> Iterator[tuple[Path, Any]]:
        """Yield a part's folder and the library transformers; complaints come in one line."""
        place = self.folder / part
        with transformers_quietly() as transformers:
            try:
                yield place, transformers
            except Exception as error:
                raise unreadable(place, error) from error

    def _complete(self, part: str, network: Any, found: Any) -> Any:
        """Return a network that got all its weights, in float32. Raises BadConfig for one that did not."""
        lost = sorted(
            [*found["missing_keys"], *(name for name, *_ in found.get("mismatched_keys") or [])]
        )
        if lost := [name for name in lost if not name.endswith("position_ids")]:
            raise BadConfig(
                f"{self.folder / part} lacks {len(lost)} tensors, first {lost[0]}\ncopy it again from where it came"
            )
        return network.float().eval().requires_grad_(False)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Return token ids [B, max_tokens]; of a text that is too long the end is left out, not its end token."""
        found = self.tokenizer(
            list(texts),
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        )
        ids: Tensor = found["input_ids"]
        return ids

    def truncated(self, texts: Sequence[str]) -> int:
        """Return how many texts are too long to be read whole."""
        found = self.tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
        return sum(len(ids) > self.max_tokens for ids in found)

    @torch.no_grad()
    def embeddings(self, texts: Sequence[str]) -> Tensor:
        """Return the text encoder's last hidden states [B, max_tokens, width], float32, on the device."""
        embedded: Tensor = self._text_encoder.to(self.device)(self.tokens(texts).to(self.device))[0]
        return embedded

    @torch.no_grad()
    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation [B, C, h, w] of the scaled latents of images [B, 3, H, W] in -1..1."""
        vae, means, deviations = self._vae.to(self.device), [], []
        for part in images.split(VAE_CHUNK):
            posterior = vae.encode(part.to(self.device)).latent_dist
            means.append(posterior.mean * self.scale)
            deviations.append(posterior.std * self.scale)
        return torch.cat(means), torch.cat(deviations)

    @torch.no_grad()
    def images(self, latents: Tensor) -> Tensor:
        """Return the images [B, 3, H, W] in about -1..1 of scaled latents."""
        vae = self._vae.to(latents.device)
        return torch.cat(
            [
                vae.decode(part / self.scale, return_dict=False)[0]
                for part in latents.split(VAE_CHUNK)
            ]
        )

    def release(self) -> None:
        """Forget the networks; they are loaded again when they are asked for."""
        for name in ("_vae", "_text_encoder"):
            self.__dict__.pop(name, None)
