"""The frozen parts of a text-to-image pipeline: text encoder, tokenizer and VAE."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deme.system import BadConfig, MissingInput, read_json, sha256, sha256_text
from deme.system.hugging_face import transformers_quietly, unreadable

PARTS = ("vae", "text_encoder", "tokenizer")
VAE_CHUNK = 8  # images per batch of the VAE, whose activations need most memory


class FrozenEncoders:
    """VAE, text encoder and tokenizer of a pipeline's folder, each loaded at first use, in float32.

    They are no submodules of the trained model, so their weights are in none of its checkpoints. Raises
    MissingInput, BadConfig, WorkFailed.
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

    def content_hash(self) -> str:
        """Return the hash of all that determines latents and embeddings but images and captions."""
        return sha256_text("\n".join(sha256(self.folder / part) for part in PARTS))

    @property
    def factor(self) -> int:
        """Pixels of an image per latent pixel, along each side."""
        return int(2 ** (len(self._config("vae")["block_out_channels"]) - 1))

    @property
    def num_channels(self) -> int:
        """Channels of an image."""
        return int(self._config("vae").get("in_channels", 3))

    @property
    def scale(self) -> float:
        """Factor that gives the VAE's latents about unit variance before they are diffused."""
        return float(self._config("vae").get("scaling_factor", 0.18215))

    @property
    def max_tokens(self) -> int:
        """Tokens of a text, begin and end tokens included; longer texts are truncated."""
        return int(
            min(
                self.tokenizer.model_max_length,
                self._config("text_encoder")["max_position_embeddings"],
            )
        )

    @property
    def width(self) -> int:
        """Dimension of a token's embedding."""
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
        """Yield a part's folder and the transformers library; errors become one line."""
        place = self.folder / part
        with transformers_quietly() as transformers:
            try:
                yield place, transformers
            except Exception as error:
                raise unreadable(place, error) from error

    def _complete(self, part: str, network: Any, found: Any) -> Any:
        """Return the network in float32. Raises BadConfig if weights are missing."""
        lost = sorted(
            [*found["missing_keys"], *(name for name, *_ in found.get("mismatched_keys") or [])]
        )
        if lost := [name for name in lost if not name.endswith("position_ids")]:
            raise BadConfig(
                f"{self.folder / part} has no values for {len(lost)} tensors, first {lost[0]}\n"
                "copy it again from its source"
            )
        return network.float().eval().requires_grad_(False)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Return token ids [B, max_tokens]; truncated texts keep their end token."""
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
        """Return how many texts are truncated."""
        found = self.tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
        return sum(len(ids) > self.max_tokens for ids in found)

    @torch.no_grad()
    def embeddings(self, texts: Sequence[str]) -> Tensor:
        """Return the last hidden states [B, max_tokens, width] of the text encoder, float32."""
        embedded: Tensor = self._text_encoder.to(self.device)(self.tokens(texts).to(self.device))[0]
        return embedded

    @torch.no_grad()
    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation [B, C, h, w] of the scaled latents.

        `images` [B, 3, H, W] are in -1..1.
        """
        vae, means, deviations = self._vae.to(self.device), [], []
        for part in images.split(VAE_CHUNK):
            posterior = vae.encode(part.to(self.device)).latent_dist
            means.append(posterior.mean * self.scale)
            deviations.append(posterior.std * self.scale)
        return torch.cat(means), torch.cat(deviations)

    @torch.no_grad()
    def images(self, latents: Tensor) -> Tensor:
        """Return the images [B, 3, H, W], approximately in -1..1, of scaled latents."""
        vae = self._vae.to(latents.device)
        return torch.cat(
            [
                vae.decode(part / self.scale, return_dict=False)[0]
                for part in latents.split(VAE_CHUNK)
            ]
        )

    def release(self) -> None:
        """Free the networks; they are loaded again at their next use."""
        for name in ("_vae", "_text_encoder"):
            self.__dict__.pop(name, None)
