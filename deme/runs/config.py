"""Compose, validate and instantiate configurations; Hydra's and OmegaConf's complaints become one clear message."""

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

from deme.system.errors import BadConfig, DemeError, did_you_mean
from deme.system.paths import conf_dir


def compose_stage(stage: str, overrides: Sequence[str], **settings: Any) -> dict[str, Any]:
    """Compose and resolve conf/<stage>.yaml, as `deme <stage> <overrides>` would. Raises BadConfig.

    `settings` are top-level values such as seed=1: the same as overrides, but configs that differ in nothing else are
    composed once.
    """
    composed = _composed(stage, tuple(overrides))
    HydraConfig.instance().set_config(composed)  # ${hydra:runtime.choices.data} names a cell
    cfg = OmegaConf.create({key: value for key, value in composed.items_ex(resolve=False) if key != "hydra"})
    cfg.update(settings)
    return to_dict(cfg)


@functools.lru_cache(maxsize=256)
def _composed(stage: str, overrides: tuple[str, ...]) -> DictConfig:
    GlobalHydra.instance().clear()
    with config_errors(stage), initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(stage, list(overrides), return_hydra_config=True)


def to_dict(cfg: DictConfig) -> dict[str, Any]:
    """Return the resolved configuration as plain Python. Raises BadConfig naming every value that must be given."""
    missing = _missing(
        OmegaConf.to_container(cfg, resolve=False), ""
    )  # as written: not what only refers to such a value
    if missing:
        names = sorted(missing)
        raise BadConfig(f"{', '.join(names)} must be given\ntype: {' '.join(f'{name}=<value>' for name in names)}")
    with config_errors():
        container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def partial(spec: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the `_target_` of a config with its arguments filled in, still to be called. Raises BadConfig."""
    try:
        factory: Callable[..., Any] = hydra.utils.instantiate({**spec, "_partial_": True}, _convert_="all")
    except InstantiationException as error:
        raise BadConfig(f"{spec.get('_target_')}: {str(error).splitlines()[0]}") from error
    return factory


def instantiate(spec: Mapping[str, Any], **extra: Any) -> Any:
    """Call the `_target_` of a config with `extra` arguments; complaints about the values are passed on as BadConfig."""
    factory = partial(spec)
    try:
        _parameters(spec, factory).bind(**extra)
    except TypeError as error:
        raise BadConfig(f"{spec['_target_']}: {error}") from error
    name = spec["_target_"].split(".")[-1]
    try:
        return factory(**extra)
    except DemeError:
        raise
    except ValueError as error:
        raise BadConfig(f"{name}: {error}") from error
    except TypeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in spec.items() if key != "_target_")
        raise BadConfig(f"{name} cannot work with {given}: {error}") from error


def instantiate_with(spec: Mapping[str, Any], **offered: Any) -> Any:
    """Like `make`, with those of the `offered` arguments that the `_target_` takes by name."""
    return instantiate(spec, **{name: value for name, value in offered.items() if name in accepted_arguments(spec) and name not in spec})


def extractor_specs(metrics: Mapping[str, Any], key: str = "features") -> dict[str, Mapping[str, Any]]:
    """Return the feature extractors that the `metrics` group names, without those set to null. Raises BadConfig."""
    specs = metrics["features"] or {}
    if not isinstance(specs, Mapping) or not all(
        isinstance(v, Mapping) and "_target_" in v for v in specs.values() if v
    ):
        raise BadConfig(
            f"metrics.{key} must be {{<name>: {{_target_: <class>, path: <weights>}}}}\n"
            "type: metrics=<option>, or see deme evaluate --cfg job"
        )
    return {name: spec for name, spec in specs.items() if spec}


def score_specs(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the scores of images and prompts that the `metrics` group names, without those set to null. Raises BadConfig."""
    return extractor_specs({"features": metrics.get("scores")}, "scores")


def accepted_arguments(spec: Mapping[str, Any]) -> set[str]:
    """Return the names of the arguments that the `_target_` of a config takes. Raises BadConfig for a key it doesn't."""
    return set(_parameters(spec, partial(spec)).parameters)


def _parameters(spec: Mapping[str, Any], factory: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(factory)
    except ValueError as error:  # a partial with an argument that is none
        known = inspect.signature(factory.func).parameters  # type: ignore[attr-defined]
        wrong = [key for key in spec if key not in known and key != "_target_"]
        name = spec["_target_"].split(".")[-1]
        raise BadConfig(f"{name} takes no {', '.join(wrong)}; allowed: {', '.join(known) or '(none)'}") from error


@contextlib.contextmanager
def config_errors(stage: str = "") -> Iterator[None]:
    """Turn Hydra's and OmegaConf's errors into BadConfig with a hint."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise BadConfig(explain(error, stage)) from error
    except ValueError as error:
        if not str(error).startswith("Config group override must be"):
            raise
        raise BadConfig(
            "an option group takes the name of an option, got null; its options: deme <verb> group=?"
        ) from error


def explain(error: Exception, stage: str) -> str:
    """Return what was given, what is allowed and what to type."""
    text = str(error).split("\n    full_key")[0]
    if option := re.search(r"Could not find '([^']+)'", text):
        group, _, name = option[1].rpartition("/")
        top, _, folder = group.partition("/")
        if top in groups():
            allowed = [choice.removeprefix(f"{folder}/") for choice in options(top) if choice.startswith(folder)]
            return f"unknown option {group}={name}; {did_you_mean(name, allowed)}allowed: {', '.join(allowed)}"
        return f"unknown group {name!r}; {did_you_mean(name, groups())}allowed: {', '.join(groups())}"
    if key := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(key[1], [*keys(stage), "experiment"], stage)
    if isinstance(error, (MissingMandatoryValue, InterpolationToMissingValueError)):
        name = getattr(error, "full_key", "") or "a value"
        return f"{name} must be given\ntype: {name}=<value>"
    if isinstance(error, OverrideParseException):
        return f"cannot read the override {error.override!r}: {text.splitlines()[0]}"
    cause = str(error.__cause__ or "").split("\n")[0]
    return " ".join(f"{text}: {cause}".split()) if cause else " ".join(text.split())


def _unknown_key(key: str, known: list[str], stage: str) -> str:
    parent = key.rpartition(".")[0]
    near = did_you_mean(key, known)
    if parent and parent in known:
        inside = [k.removeprefix(f"{parent}.") for k in known if k.startswith(f"{parent}.") and "_target_" not in k]
        return f"unknown key {key!r}; {near}keys of {parent}: {', '.join(inside) or '(none)'}"
    return f"unknown key {key!r}; {near}keys of `deme {stage}`: {', '.join(sorted({k.split('.')[0] for k in known}))}"


def keys(stage: str) -> list[str]:
    """Return the dotted keys that the stage's default configuration has."""
    with contextlib.suppress(Exception):
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return _dotted(OmegaConf.to_container(compose(stage), resolve=False), "")
    return []


def _dotted(node: Any, prefix: str) -> list[str]:
    if not isinstance(node, dict):
        return []
    return [full for k, v in node.items() for full in (f"{prefix}{k}", *_dotted(v, f"{prefix}{k}."))]


def _missing(node: Any, name: str) -> list[str]:
    if isinstance(node, dict):
        return [key for k, v in node.items() for key in _missing(v, f"{name}.{k}" if name else str(k))]
    return [name] if node == "???" else []


def groups() -> list[str]:
    """Return the names of all option groups."""
    return sorted(p.name for p in conf_dir().iterdir() if p.is_dir())


def options(group: str) -> list[str]:
    """Return the options of a group, sub-folders included as folder/name."""
    folder = Path(conf_dir(), group)
    return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))
