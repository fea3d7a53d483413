"""`digit_caption_match`: a small contrastive network of images and captions of digits, and its score. It is no CLIP score."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from deme.data.pixels import to_float
from deme.metrics.cosine import hundred_cosines
from deme.metrics.features import read_into, weights_file
from deme.system import files
from deme.system.errors import BadConfig

SHAPE = (3, 16, 16)


class CaptionNetwork(nn.Module):
    """Map images and texts into one space, as CLIP does (Radford et al. 2021); `text` is a CLIPTextConfig as a mapping."""

    def __init__(self, text: dict[str, Any]) -> None:
        super().__init__()
        try:
            from transformers import CLIPTextConfig, CLIPTextModelWithProjection
        except ImportError as error:
            raise BadConfig(
                f"captions need transformers: {error}\ntype: pip install transformers"
            ) from error
        self.text = CLIPTextModelWithProjection(CLIPTextConfig(**text))
        self.image = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, self.text.config.projection_dim),
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def of_images(self, images: Tensor) -> Tensor:
        """Return embeddings of length 1, [B, projection_dim], of images [B, 3, 16, 16] in -1..1."""
        return normalize(self.image(images), dim=-1)

    def of_texts(self, tokens: Tensor) -> Tensor:
        """Return embeddings of length 1, [B, projection_dim], of tokens [B, L]; the end token is where a text is read off."""
        return normalize(self.text(input_ids=tokens).text_embeds, dim=-1)


class CaptionMatch:
    """Score images [B, 3, 16, 16] by 100 x their cosine with a text, in a network that no generator was conditioned on.

    `path`: a folder with config.json (of the text half), model.safetensors and CLIP's tokenizer files; `sha256`: that of the
    folder. A `TextScore`; -100..100, higher is better. Mean without cutting off: none of it is CLIP's definition.
    """

    score_name = suffix = "digit_caption_match"

    def __init__(self, path: str, sha256: str | None = None) -> None:
        place = weights_file(path, sha256)
        self.weights = sha256 or files.sha256(place)
        self.network, self.tokenizer = _load(place)
        self.length: int = self.network.text.config.max_position_embeddings
        self.dimension: int = self.network.text.config.projection_dim
        self.name = (
            f"contrastive network of captioned digits, {self.dimension} dimensions, 100 x cosine"
        )
        self.device = "cpu"

    def to(self, device: str) -> "CaptionMatch":
        self.network.to(device)
        self.device = device
        return self

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        if tuple(pixels.shape[1:]) != SHAPE:
            raise BadConfig(
                f"{self.score_name} reads 16 x 16 images in colour, got {tuple(pixels.shape[1:])}"
            )
        return self.network.of_images(to_float(pixels.to(self.device))).float().cpu()

    def score(self, features: Tensor, texts: Sequence[str]) -> Tensor:
        return hundred_cosines(features, texts, self._embed)

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> Tensor:
        how = {
            "padding": "max_length",
            "max_length": self.length,
            "truncation": True,
            "return_tensors": "pt",
        }
        return self.network.of_texts(self.tokenizer(texts, **how).input_ids.to(self.device))

    def mean(self, scores: Tensor) -> float:
        return float(scores.double().mean())

    def truncated(self, texts: Sequence[str]) -> int:
        found = self.tokenizer(list(texts), verbose=False).input_ids if texts else []
        return sum(len(tokens) > self.length for tokens in found)


def _load(place: Path) -> tuple[CaptionNetwork, Any]:
    """Return the network and its tokenizer. Raises BadConfig if the folder holds something else."""
    missing = [
        n
        for n in ("config.json", "model.safetensors", "vocab.json", "merges.txt")
        if not (place / n).is_file()
    ]
    if missing:
        raise BadConfig(
            f"{place} lacks {', '.join(missing)}; it is no folder with a caption network\n"
            "type: metrics.scores.caption_match.path=asset:caption_judge"
        )
    config = files.read_json(place / "config.json")
    network = CaptionNetwork(config)
    another = "type: metrics.scores.caption_match.path=asset:caption_judge"
    read_into(network, place / "model.safetensors", f"{place} holds no caption network\n{another}")
    from transformers import CLIPTokenizer

    return network.eval().requires_grad_(False), CLIPTokenizer.from_pretrained(
        place, local_files_only=True
    )
