"""Whether diffusers can build and run the network of a config, tested without allocating it."""

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import diffusers
import torch

from deme.models.checkpoint import open_weights
from deme.models.layout import network_folder
from deme.models.network_inputs import InputsOf
from deme.system import BadConfig, DemeError, first_line, is_weights

TRIED_TOKENS = 8  # of the text in the trial of a config


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


def try_config(
    path: str, folder: Path, kind: str, config: Mapping[str, object], inputs_of: InputsOf
) -> None:
    """Build a network of diffusers' class `kind` and call it once, both on the meta device.

    `inputs_of` returns its inputs by its whole config. Raises BadConfig for a config that describes
    more parameters than the folder's files of weights have bytes, ValueError for one that fails.
    """
    problem, count = _tried(kind, json.dumps(config, sort_keys=True), inputs_of)
    if problem is not None:
        raise ValueError(problem)
    sizes = [file.stat().st_size for file in network_folder(folder).glob("*") if is_weights(file)]
    if sizes and count > sum(sizes):
        open_weights(network_folder(folder))  # says what a file is that is damaged or no weights
        raise BadConfig(
            f"{path} has a config.json of a network of {count:,} parameters, and its weights are "
            f"{sum(sizes):,} bytes: they are of different models"
        )


@functools.lru_cache(maxsize=64)
def _tried(kind: str, config: str, inputs_of: InputsOf) -> tuple[str | None, int]:
    """Return what fails, if anything, and the number of parameters."""
    try:
        with torch.device("meta"), torch.no_grad():
            network = getattr(diffusers, kind).from_config(json.loads(config))
            inputs = inputs_of(network.config, TRIED_TOKENS)
            batch = inputs.batch(1)
            output = network(**batch).sample
    except Exception as error:  # whatever diffusers and torch make of the values of a config
        return first_line(error), 0
    given = inputs.denoised(batch).shape
    with_variance = (1, 2 * given[1], *given[2:])
    other = (1, inputs.predicted, *given[2:])
    if output.shape not in (given, with_variance, other):
        return f"it maps an input of shape {tuple(given)} with {tuple(output.shape)}", 0
    return None, sum(parameter.numel() for parameter in network.parameters())
