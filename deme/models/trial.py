"""Whether diffusers can build and run the network of a config, tested without allocating it."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch

from deme.models.checkpoint import open_weights
from deme.models.layout import network_folder
from deme.system import BadConfig, DemeError, first_line, is_weights

# name of a network's argument (a.b: b in the dictionary a) -> its shape for one image, and its
# type; the first is what it denoises
Arguments = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
_KNOWN: dict[tuple[str, str], tuple[str | None, int]] = {}  # what was tried in this process


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


# number of tokens of a text -> arguments that have no row for each image
Constants = Callable[..., Mapping[str, object]]


def no_constants(num_tokens: int = 0) -> Mapping[str, object]:  # noqa: ARG001
    """Return no arguments."""
    return {}


def nested(given: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return arguments of which those named a.b are in a dictionary called a."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        outer, dot, inner = name.partition(".")
        if dot:
            found.setdefault(outer, {})[inner] = value
        else:
            found[name] = value
    return found


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Return height and width of a config's sample_size."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def try_config(
    path: str,
    folder: Path,
    kind: str,
    config: Mapping[str, object],
    arguments: Callable[[Mapping[str, Any]], Arguments],
    constants: Callable[[], Mapping[str, object]] = no_constants,
) -> None:
    """Build a network of diffusers' class `kind` and ask it once, both on the meta device.

    `arguments` returns the network's arguments by its whole config, `constants` further ones.

    Raises BadConfig for a config that describes more parameters than the folder's files of weights
    have bytes, ValueError for one that fails.
    """
    problem, count = _tried(kind, json.dumps(config, sort_keys=True), arguments, constants)
    if problem is not None:
        raise ValueError(problem)
    sizes = [file.stat().st_size for file in network_folder(folder).glob("*") if is_weights(file)]
    if sizes and count > sum(sizes):
        open_weights(network_folder(folder))  # says what a file is that is damaged or no weights
        raise BadConfig(
            f"{path} has a config.json of a network of {count:,} parameters, and its weights are "
            f"{sum(sizes):,} bytes: they are of different models"
        )


def _tried(
    kind: str,
    config: str,
    arguments: Callable[[Mapping[str, Any]], Arguments],
    constants: Callable[[], Mapping[str, object]],
) -> tuple[str | None, int]:
    """Return what fails, if anything, and the number of parameters; what was tried is kept."""
    if (kind, config) not in _KNOWN:
        _KNOWN[kind, config] = _try(kind, config, arguments, constants)
    return _KNOWN[kind, config]


def _try(
    kind: str,
    config: str,
    arguments: Callable[[Mapping[str, Any]], Arguments],
    constants: Callable[[], Mapping[str, object]],
) -> tuple[str | None, int]:
    try:
        with torch.device("meta"), torch.no_grad():
            network = getattr(diffusers, kind).from_config(json.loads(config))
            given = {
                name: torch.zeros(1, *shape, dtype=dtype)
                for name, (shape, dtype) in arguments(network.config).items()
            }
            sample = next(iter(given.values()))
            output = network(**nested(given), **constants()).sample
    except Exception as error:  # whatever diffusers and torch make of the values of a config
        return first_line(error), 0
    with_variance = (1, 2 * sample.shape[1], *sample.shape[2:])
    if output.shape not in (sample.shape, with_variance):
        return f"it maps an input of shape {tuple(sample.shape)} with {tuple(output.shape)}", 0
    return None, sum(parameter.numel() for parameter in network.parameters())
