"""What open_clip knows of its networks, and their weights from a local file: nothing is downloaded or left random."""

from pathlib import Path
from typing import Any

from torch import Tensor

from deme.metrics.features import read_weights
from deme.system.errors import BadConfig, did_you_mean

ANOTHER = (
    "type: metrics.path=<weights of open_clip> metrics.architecture=<ViT-g-14, ViT-H-14, ViT-B-32, ...>, or\n"
    "metrics.open_clip.path and metrics.open_clip.architecture of metrics=text_to_image"
)
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
NO_FEATURE = (
    "logit_scale",
    "logit_bias",
    "attn_mask",
    "position_ids",
)  # tensors that do not change a score


def config_of(library: Any, architecture: str) -> dict[str, Any]:
    """Return open_clip's config of an architecture. Raises BadConfig for unknown ones and such as need more than weights."""
    if architecture not in (known := library.list_models()):
        near = did_you_mean(architecture, known)
        raise BadConfig(
            f"open_clip has no architecture {architecture!r}; {near}see open_clip.list_models()"
        )
    config: dict[str, Any] = library.get_model_config(architecture)
    text = config["text_cfg"]
    if (
        text.keys() & {"hf_model_name", "hf_tokenizer_name", "tokenizer_kwargs"}
        or "siglip" in architecture.lower()
    ):
        raise BadConfig(
            f"{architecture} reads texts by a tokenizer that is no part of open_clip\n{ANOTHER}"
        )
    if text.get("vocab_size", 49408) < (words := library.SimpleTokenizer().vocab_size):
        raise BadConfig(
            f"{architecture} knows {text['vocab_size']} tokens, open_clip's tokenizer has {words}\n{ANOTHER}"
        )
    return config


def published_of(
    library: Any, architecture: str, config: dict[str, Any], pretrained: str | None
) -> dict[str, Any]:
    """Return how the weights that open_clip lists for an architecture, or the tagged ones alone, want images prepared."""
    tags = {
        tag: library.get_pretrained_cfg(architecture, tag)
        for tag in library.list_pretrained_tags_by_model(architecture)
    }
    if pretrained is not None:
        if pretrained not in tags:
            near = did_you_mean(pretrained, tags)
            raise BadConfig(
                f"open_clip lists no weights {pretrained!r} of {architecture}; {near}allowed: {', '.join(tags) or 'null'}"
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
            f"weights of {architecture} differ in how images are prepared or in their activation: say which these are\n"
            f"type: metrics.pretrained=<one of {', '.join(tags)}> (metrics.open_clip.pretrained of metrics=text_to_image)"
        )
    preprocessing, quick_gelu = ways[0]
    if quick_gelu and not config.get("quick_gelu"):
        raise BadConfig(
            f"{pretrained or 'all weights'} of {architecture} were trained with another activation, QuickGELU\n"
            f"type: metrics.architecture={architecture}-quickgelu (metrics.open_clip.architecture of metrics=text_to_image)"
        )
    return preprocessing


def fill(network: Any, place: Path, architecture: str) -> None:
    """Give the network all its weights from a file. Raises BadConfig for missing, misshapen and foreign tensors."""

    def own(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: value
            for name, value in tensors.items()
            if name.rsplit(".", 1)[-1] not in NO_FEATURE
        }

    needed, given = own(network.state_dict()), own(read_weights(place))
    lost = [
        name
        for name, value in needed.items()
        if name not in given or given[name].shape != value.shape
    ]
    foreign = [name for name in given if name not in needed]
    counts = []
    if lost:
        counts.append(
            f"lacks, or has in another shape, {len(lost)} of its {len(needed)} tensors, first {lost[0]}"
        )
    if foreign:
        counts.append(f"has {len(foreign)} that it does not know, first {foreign[0]}")
    if counts:
        raise BadConfig(f"{place} holds no {architecture}: it {' and '.join(counts)}\n{ANOTHER}")
    network.load_state_dict(given, strict=False)
