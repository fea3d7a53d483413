"""`digit_caption_match`: the score of a small contrastive network of digit images and captions.

It is CLIP's idea with a network of this package, not a CLIP score.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from deme.data.pixels import to_float
from deme.metrics.features import read_into, weights_file
from deme.metrics.text_score import CosineScore
from deme.system import BadConfig, DemeError, first_line, read_json
from deme.system.diffusers_configs import NetworkConfig
from deme.system.hugging_face import transformers_quietly

SHAPE = (3, 16, 16)
SHIPPED = "type: metrics.scores.caption_match.path=asset:caption_judge"


class CaptionNetwork(nn.Module):
    """Embed images and texts into one space, as CLIP does (Radford et al. 2021).

    `text`: the arguments of a CLIPTextConfig.
    """

    def __init__(self, text: Mapping[str, object]) -> None:
        super().__init__()
        with transformers_quietly("the config of the text encoder") as transformers:
            settings = transformers.CLIPTextConfig(**text)
            self.text = transformers.CLIPTextModelWithProjection(settings)
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
        """Return unit embeddings [B, projection_dim] of images [B, 3, 16, 16] in -1..1."""
        return normalize(self.image(images), dim=-1)

    def of_texts(self, tokens: Tensor) -> Tensor:
        """Return unit embeddings [B, projection_dim] of tokens [B, L], read at the end token."""
        return normalize(self.text(input_ids=tokens).text_embeds, dim=-1)


class CaptionMatch(CosineScore):
    """Score images [B, 3, 16, 16] by 100 x the cosine with their text, -100..100.

    A `TextScore` of a network that no generator was conditioned on. `path`: a folder with
    config.json (of the text encoder), model.safetensors and CLIP's tokenizer files; `sha256`: that
    of the folder. The metric is the plain mean.
    """

    score_name = suffix = "digit_caption_match"

    def __init__(self, path: str, sha256: str | None = None) -> None:
        place, self.weights = weights_file(path, sha256)
        self.network = _load(place)
        with transformers_quietly(place) as transformers:
            self.tokenizer = transformers.CLIPTokenizer.from_pretrained(
                place, local_files_only=True
            )
        self.length: int = self.network.text.config.max_position_embeddings
        self.dimension: int = self.network.text.config.projection_dim
        self.name = (
            f"contrastive network of captioned digits, {self.dimension} dimensions, 100 x cosine"
        )

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        if (shape := tuple(pixels.shape[1:])) != SHAPE:
            raise BadConfig(f"{self.score_name} measures images of shape {SHAPE}, got {shape}")
        return self.network.of_images(to_float(pixels.to(self.device))).float().cpu()

    @torch.inference_mode()
    def embed(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(
            texts,
            padding="max_length",
            max_length=self.length,
            truncation=True,
            return_tensors="pt",
        )
        return self.network.of_texts(tokens.input_ids.to(self.device))

    def truncated(self, texts: Sequence[str]) -> int:
        found = self.tokenizer(list(texts), verbose=False).input_ids if texts else []
        return sum(len(tokens) > self.length for tokens in found)


def _network(place: Path) -> CaptionNetwork:
    config = read_json(place / "config.json", NetworkConfig, SHIPPED)
    try:
        return CaptionNetwork(config)
    except DemeError:
        raise
    except Exception as error:  # whatever transformers makes of the values of a config
        raise BadConfig(
            f"{place} has a config of which no caption network is made: {first_line(error)}\n"
            f"{SHIPPED}"
        ) from error


def _load(place: Path) -> CaptionNetwork:
    """Return the network of a folder. Raises BadConfig if the folder holds something else."""
    needed = ("config.json", "model.safetensors", "vocab.json", "merges.txt")
    if missing := [name for name in needed if not (place / name).is_file()]:
        raise BadConfig(
            f"{place} has no {', '.join(missing)}, which a caption network needs\n{SHIPPED}"
        )
    network = _network(place)
    read_into(network, place / "model.safetensors", f"{place} holds no caption network\n{SHIPPED}")
    return network.eval().requires_grad_(False)
