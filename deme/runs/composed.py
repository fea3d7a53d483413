"""Hydra's composition of the option files before interpolation, and the defaults of options."""

import contextlib
import functools
import json
from collections.abc import Mapping
from typing import Any, cast

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from deme import __version__
from deme.runs.config_errors import config_errors
from deme.runs.inputs import cached
from deme.runs.settings.base import Config
from deme.runs.trusted import option_files
from deme.system import DemeError, conf_dir, files, read_cached

Flat = dict[str, Any]  # the values of a configuration by their dotted keys


def composed(stage: str, overrides: tuple[str, ...]) -> Config:
    """Return Hydra's composition before interpolation, with the names of chosen options."""
    return _composition(stage, overrides)[0]


def chosen_options(stage: str, overrides: tuple[str, ...]) -> Mapping[str, str]:
    """Return the chosen option of every group. Raises BadConfig."""
    return _composition(stage, overrides)[1]


@functools.lru_cache(maxsize=512)
def _composition(stage: str, overrides: tuple[str, ...]) -> tuple[Config, Mapping[str, str]]:
    GlobalHydra.instance().clear()
    with (
        config_errors(stage, overrides),
        initialize_config_dir(str(conf_dir()), version_base="1.3"),
    ):
        found = compose(stage, list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(found)
    chosen = dict(found.hydra.runtime.choices)
    choices = {f"${{hydra:runtime.choices.{group}}}": name for group, name in chosen.items()}
    plain = OmegaConf.create(
        {key: value for key, value in found.items_ex(resolve=False) if key != "hydra"}
    )
    config = replaced(OmegaConf.to_container(plain, resolve=False), choices)
    return cast(Config, config), chosen


@functools.lru_cache(maxsize=512)
def defaults(stage: str, choices: tuple[str, ...]) -> Flat:
    """Return the default values of an experiment and of options by their dotted keys.

    Values that refer to other keys are not resolved. Raises BadConfig for an option that is not in
    conf/.
    """
    key = json.dumps([stage, choices, conf_listing(), __version__, hydra.__version__])
    place = cached("defaults", key)
    known = read_cached(place, dict[str, Any])
    if known is None:
        known = flat(composed(stage, choices))
        with contextlib.suppress(OSError, DemeError, TypeError):
            files.write_bytes(place, json.dumps(known).encode(), sync=False)
    return known


def flat(config: Mapping[str, Any], prefix: str = "") -> Flat:
    """Return the values of a configuration by their dotted keys, without groups."""
    found: Flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def replaced(node: Any, values: Mapping[str, object]) -> Any:
    """Return a copy with placeholders, also inside longer texts, replaced by their values."""
    if isinstance(node, dict):
        return {key: replaced(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [replaced(value, values) for value in node]
    if not isinstance(node, str):
        return node
    if node in values:
        return values[node]
    for mark, value in values.items():
        node = node.replace(mark, str(value))
    return node


@functools.cache
def conf_listing() -> list[tuple[str, int, int]]:
    """Return path, size and time of every file of conf/."""
    stats = [(str(path), path.stat()) for path in option_files(conf_dir())]
    return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
