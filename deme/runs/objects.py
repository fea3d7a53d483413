"""Make the objects that the options of a configuration stand for."""

import inspect
from collections.abc import Callable
from typing import Any

import hydra
from hydra.errors import InstantiationException

from deme.runs.settings.base import Option
from deme.system import BadConfig, DemeError


def partial(option: Option) -> Callable[..., Any]:
    """Return the `_target_` of an option with its arguments, still to be called.

    Raises BadConfig.
    """
    try:
        factory: Callable[..., Any] = hydra.utils.instantiate(
            {**option, "_partial_": True}, _convert_="all"
        )
    except InstantiationException as error:
        raise BadConfig(f"{option.get('_target_')}: {str(error).splitlines()[0]}") from error
    return factory


def instantiate(option: Option, **extra: object) -> Any:
    """Call the `_target_` of an option with its arguments and `extra` ones. Raises BadConfig."""
    factory = partial(option)
    try:
        _parameters(option, factory).bind(**extra)
    except TypeError as error:
        raise BadConfig(f"{option['_target_']}: {error}") from error
    try:
        return factory(**extra)
    except DemeError:
        raise
    except ValueError as error:
        raise BadConfig(f"{_name(option)}: {error}") from error
    except TypeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in option.items() if key != "_target_")
        raise BadConfig(f"{_name(option)} cannot work with {given}: {error}") from error


def instantiate_with(option: Option, **offered: object) -> Any:
    """Instantiate with those of the `offered` arguments that the `_target_` takes by name."""
    taken = accepted_arguments(option) - option.keys()
    return instantiate(option, **{name: offered[name] for name in offered if name in taken})


def accepted_arguments(option: Option) -> set[str]:
    """Return the names of the arguments that a `_target_` takes. Raises BadConfig for others."""
    return set(_parameters(option, partial(option)).parameters)


def _parameters(option: Option, factory: Callable[..., object]) -> inspect.Signature:
    try:
        return inspect.signature(factory)
    except ValueError as error:  # a partial with an argument that is none
        known = inspect.signature(factory.func).parameters  # type: ignore[attr-defined]
        wrong = ", ".join(key for key in option if key not in known and key != "_target_")
        allowed = ", ".join(known) or "(none)"
        raise BadConfig(f"{_name(option)} takes no {wrong}; allowed: {allowed}") from error


def _name(option: Option) -> str:
    return str(option["_target_"]).rpartition(".")[2]
