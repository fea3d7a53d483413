"""Whether diffusers can build and run the network of a config, tested without allocating it."""

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import diffusers
import torch

from deme.models.checkpoint import open_weights
from deme.models.layout import unet_folder
from deme.system import BadConfig, DemeError, first_line, is_weights

NUM_TOKENS = 8  # of the text that a conditional network sees


@contextlib.contextmanager
def config_errors(path: str) -> Iterator[None]:
    """Raise BadConfig for whatever diffusers makes of the values of a config in the block.

    `path` names the model folder in the message.
    """
    try:
        yield
    except DemeError:
        raise
    except Exception as error:
        raise BadConfig(
            f"{path} has configs of which diffusers makes no model: {first_line(error)}"
        ) from error


def try_config(path: str, folder: Path, kind: str, config: Mapping[str, object]) -> None:
    """Build a UNet of diffusers' class `kind` and ask it once, both on the meta device.

    Raises BadConfig for a config that describes more parameters than the folder's files of weights
    have bytes, ValueError for one that fails.
    """
    problem, count = _tried(kind, json.dumps(config, sort_keys=True))
    if problem is not None:
        raise ValueError(problem)
    sizes = [file.stat().st_size for file in unet_folder(folder).glob("*") if is_weights(file)]
    if sizes and count > sum(sizes):
        open_weights(unet_folder(folder))  # says what a file is that is damaged or no weights
        raise BadConfig(
            f"{path} has a config.json of a network of {count:,} parameters, and its weights are "
            f"{sum(sizes):,} bytes: they are of different models"
        )


@functools.lru_cache(maxsize=64)
def _tried(kind: str, config: str) -> tuple[str | None, int]:
    """Return what fails, if anything, and the number of parameters."""
    try:
        with torch.device("meta"), torch.no_grad():
            network = getattr(diffusers, kind).from_config(json.loads(config))
            found = network.config
            size = found["sample_size"]
            sides = (size, size) if isinstance(size, int) else tuple(size)
            sample = torch.empty(1, found["in_channels"], *sides)
            width = found.get("cross_attention_dim")
            texts = [] if width is None else [torch.empty(1, NUM_TOKENS, width)]
            output = network(sample, torch.zeros(1), *texts).sample
    except Exception as error:  # whatever diffusers and torch make of the values of a config
        return first_line(error), 0
    if output.shape != sample.shape:
        return f"it maps an input of shape {tuple(sample.shape)} with {tuple(output.shape)}", 0
    return None, sum(parameter.numel() for parameter in network.parameters())
