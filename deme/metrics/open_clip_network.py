"""Networks of open_clip with weights from a local file: nothing is downloaded or left random."""

from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from deme.metrics.features import read_weights
from deme.system import BadConfig, did_you_mean

ANOTHER = (
    "type: metrics.path=<weights of open_clip> "
    "metrics.architecture=<ViT-g-14, ViT-H-14, ViT-B-32, ...>, or\n"
    "metrics.open_clip.path and metrics.open_clip.architecture of metrics=text_to_image"
)
IN_TEXT_TO_IMAGE = "of metrics=text_to_image"
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
# last parts of the names of tensors that do not change a score
NO_FEATURE = ("logit_scale", "logit_bias", "attn_mask", "position_ids")


def model_settings(library: ModuleType, architecture: str) -> dict[str, Any]:
    """Return open_clip's settings of an architecture.

    Raises BadConfig for unknown ones and for those that need more files than their weights.
    """
    if architecture not in (known := library.list_models()):
        near = did_you_mean(architecture, known)
        raise BadConfig(
            f"open_clip has no architecture {architecture!r}; {near}see open_clip.list_models()"
        )
    settings: dict[str, Any] = library.get_model_config(architecture)
    text = settings["text_cfg"]
    own_tokenizer = {"hf_model_name", "hf_tokenizer_name", "tokenizer_kwargs"}
    if text.keys() & own_tokenizer or "siglip" in architecture.lower():
        raise BadConfig(f"{architecture} needs a tokenizer that is no part of open_clip\n{ANOTHER}")
    if text.get("vocab_size", 49408) < (size := library.SimpleTokenizer().vocab_size):
        raise BadConfig(
            f"{architecture} has {text['vocab_size']} tokens, open_clip's tokenizer {size}\n"
            f"{ANOTHER}"
        )
    return settings


def preprocessing_of(
    library: ModuleType, architecture: str, settings: dict[str, Any], pretrained: str | None
) -> dict[str, Any]:
    """Return how images are prepared for the weights that open_clip lists for an architecture.

    `pretrained`: the tag of the weights; without it all of them must agree. Raises BadConfig.
    """
    tags = {
        tag: library.get_pretrained_cfg(architecture, tag)
        for tag in library.list_pretrained_tags_by_model(architecture)
    }
    if pretrained is not None:
        if pretrained not in tags:
            near = did_you_mean(pretrained, tags)
            raise BadConfig(
                f"open_clip lists no weights {pretrained!r} of {architecture}; "
                f"{near}allowed: {', '.join(tags) or 'null'}"
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
