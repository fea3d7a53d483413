"""Networks in Hugging Face folders, read whole or not at all, and without a word."""

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from deme.system.errors import BadConfig, WorkFailed, first_line
from deme.system.reading import read_json

ANOTHER = (
    "type: metrics.path=<folder with config.json and model.safetensors> "
    "(metrics.clip.path of metrics=text_to_image)"
)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence Python's warnings and what libraries log, for the block: what matters is raised.

    Logging is left as it was.
    """
    disabled, silent = logging.root.manager.disable, logging.NullHandler()
    logging.root.addHandler(silent)  # without any, logging.warning() would set up one for good
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.removeHandler(silent)


WEIGHTS = re.compile(
    r"(?:pytorch_model|model|diffusion_pytorch_model)"
    r"(?:\.(?!safetensors|bin)(?P<variant>\w+))?(?:-\d+-of-\d+)?\.(?:safetensors|bin)"
    r"(?:\.index(?:\.(?P<index_variant>\w+))?\.json)?"
)


def variant_of(place: Path, pattern: str = "*") -> str | None:
    """Return the variant, such as fp16, of a network's folder that holds no other weights.

    `pattern`: of the names of files that count. None: there are weights without a variant, or none
    at all. Raises BadConfig for several.
    """
    names = [file.name for file in place.glob(pattern)]
    found = [match for name in names if (match := WEIGHTS.fullmatch(name))]
    variants = {match["variant"] or match["index_variant"] for match in found}
    if None in variants or not variants:
        return None
    if len(variants) > 1:
        raise BadConfig(
            f"{place} has several variants of its weights: {', '.join(sorted(variants))}\n"
            "rename the files of the one to use: leave out .<variant>"
        )
    return str(variants.pop())


@contextlib.contextmanager
def transformers_quietly(what: object) -> Iterator[ModuleType]:
    """Yield the library transformers, silenced for the block, which reads `what`.

    Raises BadConfig without the library, WorkFailed for any error of the block.
    """
    with quietly(), contextlib.ExitStack() as after:
        try:
            import transformers
            from transformers.utils.logging import (
                disable_progress_bar,
                enable_progress_bar,
                is_progress_bar_enabled,
            )
        except ImportError as error:
            raise BadConfig(
                f"these models need transformers: {first_line(error)}\n"
                "type: pip install transformers"
            ) from error
        if is_progress_bar_enabled():
            after.callback(enable_progress_bar)
        disable_progress_bar()
        try:
            yield transformers
        except Exception as error:
            raise WorkFailed(f"{what} cannot be read: {first_line(error)}") from error


def load_network(
    place: Path, model_types: tuple[str, ...], architecture: str
) -> tuple[nn.Module, Any]:
    """Return transformers' `architecture` and its config.

    A file with gaps, which transformers would fill at random, is refused. `model_types`: what
    config.json may say. Raises BadConfig, or WorkFailed if the folder cannot be read.
    """
    if not (place / "config.json").is_file() or not any(place.glob("model*.safetensors")):
        raise BadConfig(
            f"{place} is not a Hugging Face folder with config.json and model.safetensors\n"
            f"{ANOTHER}"
        )
    model_type = read_json(place / "config.json", dict[str, object], ANOTHER).get("model_type")
    if model_type not in model_types:
        raise BadConfig(
            f"{place} holds a model of type {model_type!r}; allowed: {', '.join(model_types)}\n"
            f"{ANOTHER}"
        )
    with transformers_quietly(place) as transformers:
        config = transformers.AutoConfig.from_pretrained(
            place, local_files_only=True, trust_remote_code=False
        )
        if model_type == "clip" and architecture != "CLIPModel":  # its vision half
            # as wide as the whole model's config says
            config.vision_config.projection_dim = config.projection_dim
            config = config.vision_config
        network, found = getattr(transformers, architecture).from_pretrained(
            place,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            variant=variant_of(place),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    if lost := sorted([*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])]):
        raise BadConfig(
            f"{place} lacks, or has in another shape, {len(lost)} of the "
            f"{len(network.state_dict())} tensors of {architecture}, first {lost[0]}\n{ANOTHER}"
        )
    return network.eval().requires_grad_(False), config
