"""Whether the classes of options take the arguments that they are given, before any work."""

import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from deme.runs.settings.base import Option
from deme.system import BadConfig, allowed, shown
from deme.system.values import either

PLAIN = (int, float, bool, str, type(None))
FINITE = ConfigDict(strict=True, allow_inf_nan=False)


def check_options(settings: object) -> None:
    """Raise BadConfig for an argument of any option that its class does not take, or not so."""
    for name, option in _options(settings):
        if name != "merge":  # its weights may have a name, and a `Merge` tries all of it out
            check_option(name, option)


def check_option(name: str, option: Option) -> None:
    """Raise BadConfig for an argument of an option with an unknown name or a wrong type."""
    from deme.runs.objects import accepted_arguments, partial  # which imports the settings

    known = accepted_arguments(option)
    factory = partial(option).func  # type: ignore[attr-defined]
    hints = _hints(factory)
    for key in option.keys() & known & hints.keys():
        try:
            TypeAdapter(hints[key], config=FINITE).validate_python(option[key])
        except ValidationError as error:
            what = either(allowed(each) for each in error.errors())
            raise BadConfig(f"{name}.{key} must be {what}; got {shown(option[key])}") from error


def _options(settings: object, prefix: str = "") -> Iterator[tuple[str, Option]]:
    """Yield the dotted name of every option of a settings object, and the option."""
    for field in fields(settings) if is_dataclass(settings) else ():
        name, value = f"{prefix}{field.name}", getattr(settings, field.name)
        if is_dataclass(value):
            yield from _options(value, f"{name}.")
        elif isinstance(value, Mapping) and "_target_" in value:
            yield name, value
        elif isinstance(value, Mapping):
            named = [(f"{name}.{key}", one) for key, one in value.items()]
            yield from (
                pair for pair in named if isinstance(pair[1], Mapping) and "_target_" in pair[1]
            )


def _hints(factory: Callable[..., object]) -> dict[str, Any]:
    """Return the types of a factory's arguments that a configuration can write."""
    function = factory.__init__ if inspect.isclass(factory) else factory
    try:
        found = get_type_hints(function)
    except (NameError, TypeError):  # names that only a type checker imports
        return {}
    return {name: kind for name, kind in found.items() if name != "return" and _is_plain(kind)}


def _is_plain(kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in PLAIN or origin is Literal:
        return True
    if origin in (Union, types.UnionType, list, Sequence, Mapping, dict):
        return all(map(_is_plain, arguments))
    return False
