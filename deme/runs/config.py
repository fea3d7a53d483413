"""Compose and resolve configurations."""

import contextlib
import functools
import json
import os
import re
from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from omegaconf import DictConfig, OmegaConf
from typing_extensions import TypedDict

from deme import __version__
from deme.runs.composed import chosen_options, composed, conf_listing, flat, replaced
from deme.runs.config_errors import config_errors, groups, options
from deme.runs.inputs import cached
from deme.runs.overrides import as_value
from deme.runs.run_files import is_run
from deme.runs.settings.architecture import with_unet
from deme.runs.settings.base import Config
from deme.runs.settings.labelled import labelled, with_values
from deme.runs.trusted import local_trust
from deme.runs.weights import weights_folder
from deme.system import BadConfig, DemeError, exists, files, logger, read_cached

FORMAT = 2  # of what is kept of a configuration in the cache
PLACES = {"model.path": "model=<folder>", "data.path": "data=<folder>", "out": "out=<folder>"}
PATH_OPTIONS = {"model": "diffusers", "data": "image_folder"}  # that model=<folder> stands for
WITH_DIGITS = ("digits", "none", "null")  # options of `data` that go with metrics=digits
LOSS_ALONE = (
    "only the held-out loss decides, which need not agree with how images look; to compare images, "
    "too, with at least 100 training images, type: metrics=own"
)
RESOLVER = re.compile(r"\$\{\s*([\w.]+):")  # of an interpolation that calls something
VALUE = re.compile(r"(?!hydra\b)[a-z_0-9]+(\.[a-z_0-9]+)*=")  # an override of one existing key


def expand_path_shortcut(arg: str) -> list[str]:
    """Return model=<folder, run or hub:...> and data=<folder> as the options they stand for."""
    group, _, typed = arg.partition("=")
    option = PATH_OPTIONS.get(group)
    if option is None or typed in options(group):
        return [arg]
    value = os.path.expanduser(typed)  # noqa: PTH111 (hub:... is no path)
    if not ("/" in value or ":" in value or exists(value)):
        return [arg]
    if group == "model" and (run := typed_run(arg)) is not None:
        value = str(weights_folder(run))
    elif group == "model" and (found := sorted(Path(value).glob("train/*-*"))):
        raise BadConfig(
            f"model={typed} contains runs, not a model\ntype: model={found[0]}, or another run"
        )
    if "," not in value and not value.startswith(("'", '"')):  # no sweep: whatever it is called
        value = as_value(value)
    return [f"{group}={option}", f"{group}.path={value}"]


def typed_run(arg: str) -> Path | None:
    """Return the run directory that model=<run> names, None for any other argument."""
    group, _, typed = arg.partition("=")
    place = Path(os.path.expanduser(typed))  # noqa: PTH111 (hub:... is no path)
    is_one = group == "model" and typed not in options(group) and exists(place) and is_run(place)
    return place if is_one else None


def expand_overrides(stage: str, words: Iterable[str]) -> list[str]:
    """Return overrides in full: paths as options, and metrics that fit the data.

    The default metrics of a command fit its default data, the digits. If other data is given, and
    neither an override nor an experiment chooses metrics, they become metrics=loss, which fits any
    data.
    """
    full = [part for word in words for part in expand_path_shortcut(word)]
    given = dict(word.partition("=")[::2] for word in full)
    if given.get("data") in (None, *WITH_DIGITS) or "metrics" in given:
        return full
    chosen = tuple(word for word in full if word.partition("=")[0] in groups() and "," not in word)
    with contextlib.suppress(BadConfig):  # which composing in full reports
        if chosen_options(stage, chosen).get("metrics") == "digits":
            if stage in ("evaluate", "search"):
                _log_loss_alone()
            return [*full, "metrics=loss"]
    return full


@functools.cache
def _log_loss_alone() -> None:
    logger.info("metrics=loss, because data= was given without metrics=: %s", LOSS_ALONE)  # once


def compose_stage(
    stage: str, overrides: Sequence[str], still_open: tuple[str, ...] = (), **values: int | str
) -> Config:
    """Return the resolved config of `deme <stage> <overrides>`. Raises BadConfig.

    `values` are keys such as seed=1 or, by their path, model.path. They count as overrides, but
    what they are does not take part in the composition, so that all seeds of a row, and the bases
    that it starts from, are composed and resolved once.
    `still_open` names keys that may be without a value (`???`).
    """
    marks = {name: f"\0{name}\0" for name in values}
    expanded = tuple(expand_overrides(stage, overrides))
    resolved = _resolved(stage, expanded, still_open, tuple(marks.items()))
    config = cast(Config, replaced(resolved, {marks[name]: values[name] for name in values}))
    return with_values(config, values)


class _Composed(TypedDict):
    """A configuration in the cache, and the environment variables that it follows from."""

    environment: dict[str, str | None]
    config: Config


@functools.lru_cache(maxsize=4096)
def _resolved(
    stage: str,
    overrides: tuple[str, ...],
    still_open: tuple[str, ...],
    values: tuple[tuple[str, str], ...],
) -> Config:
    """Return the resolved config, from the user's cache unless a file of conf/ has changed.

    Composing takes Hydra 0.1 s, resolving 0.02 s, and a suite asks for dozens.
    """
    versions = (FORMAT, __version__, hydra.__version__)
    key = json.dumps([stage, overrides, still_open, values, conf_listing(), versions])
    place = cached("configs", key)
    known = read_cached(place, _Composed)
    if known is not None and known["environment"] == _environment(known["environment"]):
        return known["config"]
    unresolved = _with_marks(_unresolved(stage, overrides), values)
    config = labelled(stage, to_dict(OmegaConf.create(unresolved), still_open), overrides)
    with contextlib.suppress(OSError, DemeError, TypeError):
        text = json.dumps(unresolved)
        variables = _environment(re.findall(r"oc\.env:(\w+)", text))
        entry = {"environment": variables, "config": config}
        encoded = json.dumps(entry)
        repeatable = {*RESOLVER.findall(text)} <= {"oc.env"} and "hydra." not in key
        if repeatable and json.loads(encoded) == entry:
            files.write_bytes(place, encoded.encode(), sync=False)
    return config


def _with_marks(config: Config, values: tuple[tuple[str, str], ...]) -> Config:
    """Return a config with marks as the values of keys, which are named by their paths."""
    found = dict(config)
    for name, mark in values:
        group, _, key = name.rpartition(".")
        if group:
            found[group] = {**found[group], key: mark}
        else:
            found[key] = mark
    return found


def _environment(names: Iterable[str]) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in names}


def _unresolved(stage: str, overrides: tuple[str, ...]) -> Config:
    """Return the config before interpolation.

    Hydra composes what the choices of options need, once for all overrides with the same choices,
    and the values of single keys are set afterwards. An override that this cannot do, a new or
    deleted key or a mapping, is left to Hydra.
    """
    choices = tuple(f"{group}=" for group in groups())
    simple = [word for word in overrides if VALUE.match(word) and not word.startswith(choices)]
    config = deepcopy(composed(stage, tuple(word for word in overrides if word not in simple)))
    for word in simple:
        with config_errors(stage, [word]):
            (*parents, last), value = _parsed(word)
        group: object = config
        for name in parents:
            group = group.get(name) if isinstance(group, dict) else None
        if not isinstance(group, dict) or last not in group or isinstance(value, dict):
            return composed(stage, overrides)
        group[last] = value
    return config


@functools.cache
def _parsed(override: str) -> tuple[list[str], Any]:
    """Return key and value of an override; a mapping where it is not a plain value."""
    (parsed,) = OverridesParser.create().parse_overrides([override])
    plain = parsed.type is OverrideType.CHANGE and not parsed.is_sweep_override()
    return parsed.key_or_group.split("."), parsed.value() if plain else {}


def to_dict(cfg: DictConfig, still_open: Sequence[str] = ()) -> Config:
    """Return the resolved configuration as plain Python.

    Raises BadConfig naming every key without a value, but for those of `still_open`.
    """
    # as written: a key that only refers to one without a value is not named
    written = flat(cast(Config, OmegaConf.to_container(cfg, resolve=False)))
    open_keys = {name for name, value in written.items() if value == "???"}
    missing = sorted(open_keys - {*still_open})
    if missing:
        args = " ".join(f"{PLACES.get(name, name + '=<value>')}" for name in missing)
        raise BadConfig(f"{', '.join(missing)} must be given\ntype: {args}")
    with config_errors():
        container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=not still_open)
    config = cast(Config, container)
    if (trust := config.pop("trust", None)) is not None and trust != local_trust():
        raise BadConfig(
            f"trust={trust} is given in a configuration file or by an override, where it does not "
            "count\ntype: trust=<package> on the command line, or write it into "
            "conf/local/default.yaml"
        )
    return with_unet(config)
