"""Make the objects that the options of a configuration stand for."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from deme.runs.settings.base import Option
from deme.runs.trusted import check_targets, find_target
from deme.system import BadConfig, DemeError, first_line


def partial(option: Option) -> Callable[..., Any]:
    """Return the `_target_` of an option with its arguments, still to be called.

    An argument that has a `_target_` itself is made, too. Raises BadConfig, also for code that is
    not trusted (deme/runs/trusted.py).
    """
    check_targets(option)
    arguments = {name: _made(value) for name, value in option.items() if name != "_target_"}
    return functools.partial(find_target(option["_target_"]), **arguments)


def _made(value: Any) -> Any:
    """Return a copy of an argument in which options are replaced by the objects they stand for."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            return instantiate(value)
        return {name: _made(each) for name, each in value.items()}
    return [_made(each) for each in value] if isinstance(value, list) else value


def instantiate(option: Option, **extra: object) -> Any:
    """Call the `_target_` of an option with its arguments and `extra` ones. Raises BadConfig."""
    factory = partial(option)
    try:
        _parameters(option, factory).bind(**extra)
    except TypeError as error:
        raise BadConfig(f"{option['_target_']}: {first_line(error)}") from error
    try:
        return factory(**extra)
    except DemeError:
        raise
    except ValueError as error:
        raise BadConfig(f"{_name(option)}: {first_line(error)}") from error
    except TypeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in option.items() if key != "_target_")
        raise BadConfig(f"{_name(option)} cannot work with {given}: {first_line(error)}") from error


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
