"""The CLIP score of text-to-image papers, with a network of open_clip and a local weight file.

Nothing is downloaded or left random.
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from deme.metrics.features import CHUNK, read_weights, rgb, weights_file
from deme.metrics.text_score import CosineScore
from deme.system import BadConfig, did_you_mean, first_line
from deme.system.hugging_face import quietly
from deme.system.optional import requirements_of_extra

ANOTHER = (
    "type: metrics.path=<weights of open_clip> "
    "metrics.architecture=<ViT-g-14, ViT-H-14, ViT-B-32, ...>, or\n"
    "metrics.open_clip.path and metrics.open_clip.architecture of metrics=text_to_image"
)
Settings = dict[str, Any]  # JSON of open_clip
IN_TEXT_TO_IMAGE = "of metrics=text_to_image"
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
# last parts of the names of tensors that do not change a score
NO_FEATURE = ("logit_scale", "logit_bias", "attn_mask", "position_ids")


class OpenClipScore(CosineScore):
    """Score images by texts: 100 cos(image, text); the metric is the plain mean, not clamped at 0.

    The CLIP score of BK-SDM (Kim et al. 2023), with ViT-g-14 of laion2b_s34b_b88k. `path`: its
    open_clip_model.safetensors or open_clip_pytorch_model.bin; `architecture`: any of open_clip's
    that needs no other file; `pretrained`: open_clip's tag of these weights, needed where weights
    of one architecture differ in how images are prepared. A text that is longer than the context
    is truncated before the end token. Raises BadConfig, WorkFailed.
    """

    score_name = suffix = "clip_score_open_clip"

    def __init__(
        self,
        path: str,
        architecture: str = "ViT-g-14",
        pretrained: str | None = None,
        sha256: str | None = None,
    ) -> None:
        place, self.weights = weights_file(path, sha256)
        if place.is_dir():
            raise BadConfig(
                f"{place} is a folder\n"
                f"type: metrics.path={place}/open_clip_model.safetensors, or .bin"
            )
        with quietly():
            try:
                import open_clip
            except ImportError as error:
                raise BadConfig(
                    f"{self.score_name} needs open_clip: {first_line(error)}\n"
                    f"type: pip install {requirements_of_extra('text')}"
                ) from error
            settings = model_settings(open_clip, architecture)
            preprocessing = preprocessing_of(open_clip, architecture, settings, pretrained)
            self.tokenizer = open_clip.get_tokenizer(architecture)
            with torch.random.fork_rng(devices=[]):  # initial weights, all of which are overwritten
                self.network = open_clip.create_model(architecture)
            load_weights(self.network, place, architecture)
            size = self.network.visual.image_size
            self.preprocess = open_clip.image_transform(size, is_train=False, **preprocessing)
        self.network.eval().requires_grad_(False)
        self.dimension: int = settings["embed_dim"]
        self.name = (
            f"open_clip {architecture}{'' if pretrained is None else ' ' + pretrained}, "
            f"{self.dimension}; texts of {self.tokenizer.context_length} tokens; "
            f"images {size} {preprocessing or 'by default'}"
        )

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        arrays = rgb(pixels, self.score_name).cpu().permute(0, 2, 3, 1).contiguous()
        inputs = (
            torch.stack([self.preprocess(Image.fromarray(each)) for each in chunk.numpy()])
            for chunk in arrays.split(CHUNK)
        )
        return torch.cat(
            [self.network.encode_image(each.to(self.device)).float().cpu() for each in inputs]
        )

    def truncated(self, texts: Sequence[str]) -> int:
        context = self.tokenizer.context_length
        return sum(len(self.tokenizer.encode(text)) + 2 > context for text in texts)

    @torch.inference_mode()
    def embed(self, texts: list[str]) -> Tensor:
        return self.network.encode_text(self.tokenizer(texts).to(self.device))


def model_settings(library: ModuleType, architecture: str) -> Settings:
    """Return open_clip's settings of an architecture.

    Raises BadConfig for unknown ones and for those that need more files than their weights.
    """
    if architecture not in (known := library.list_models()):
        raise BadConfig(
            f"open_clip has no architecture {architecture!r}; "
            f"{did_you_mean(architecture, known)}see open_clip.list_models()"
        )
    settings: Settings = library.get_model_config(architecture)
    text = settings["text_cfg"]
    own_tokenizer = {"hf_model_name", "hf_tokenizer_name", "tokenizer_kwargs"}
    if text.keys() & own_tokenizer or "siglip" in architecture.lower():
        raise BadConfig(
            f"{architecture} needs a tokenizer that is not part of open_clip\n{ANOTHER}"
        )
    if text.get("vocab_size", 49408) < (size := library.SimpleTokenizer().vocab_size):
        raise BadConfig(
            f"{architecture} has {text['vocab_size']} tokens, open_clip's tokenizer {size}\n"
            f"{ANOTHER}"
        )
    return settings


def preprocessing_of(
    library: ModuleType, architecture: str, settings: Settings, pretrained: str | None
) -> dict[str, object]:
    """Return how images are prepared for the weights that open_clip lists for an architecture.

    `pretrained`: the tag of the weights; without it all of them must agree. Raises BadConfig.
    """
    tags = {
        tag: library.get_pretrained_cfg(architecture, tag)
        for tag in library.list_pretrained_tags_by_model(architecture)
    }
    if pretrained is not None:
        if pretrained not in tags:
            raise BadConfig(
                f"open_clip lists no weights {pretrained!r} of {architecture}; "
                f"{did_you_mean(pretrained, tags)}allowed: {', '.join(tags) or 'null'}"
            )
        tags = {pretrained: tags[pretrained]}
    ways = [
        ({key: tag[key] for key in PREPROCESSING}, bool(tag.get("quick_gelu")))
        for tag in tags.values()
    ]
    if not ways:  # an architecture of the user's own: open_clip's defaults
        return {}
    if any(way != ways[0] for way in ways):
        raise BadConfig(
            f"weights of {architecture} differ in image preprocessing or activation: name yours\n"
            f"type: metrics.pretrained=<one of {', '.join(tags)}> "
            f"(metrics.open_clip.pretrained {IN_TEXT_TO_IMAGE})"
        )
    preprocessing, quick_gelu = ways[0]
    if quick_gelu and not settings.get("quick_gelu"):
        raise BadConfig(
            f"{pretrained or 'all weights'} of {architecture} were trained with the activation "
            f"QuickGELU\ntype: metrics.architecture={architecture}-quickgelu "
            f"(metrics.open_clip.architecture {IN_TEXT_TO_IMAGE})"
        )
    return preprocessing


def load_weights(network: nn.Module, place: Path, architecture: str) -> None:
    """Load all weights from a file. Raises BadConfig for missing, misshapen and unknown tensors."""

    def counted(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: v for n, v in state.items() if n.rsplit(".", 1)[-1] not in NO_FEATURE}

    needed, given = counted(network.state_dict()), counted(read_weights(place))
    lost = [n for n, v in needed.items() if n not in given or given[n].shape != v.shape]
    unknown = [name for name in given if name not in needed]
    if wrong := [*lost, *unknown]:
        raise BadConfig(
            f"{place} holds no {architecture}: {len(lost)} of {len(needed)} tensors are missing or "
            f"of another shape, {len(unknown)} are unknown, first {wrong[0]}\n{ANOTHER}"
        )
    network.load_state_dict(given, strict=False)
