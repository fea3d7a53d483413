"""The types and bounds of settings in words, from the dataclasses that declare them."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from deme.runs import Option
from deme.runs.settings import ChangesNoResult
from deme.runs.settings import groups as group_settings
from deme.runs.settings.base import LARGE, Arguments
from deme.runs.settings.progress import ProgressSettings

GROUPS = {  # option groups whose keys are those of a settings dataclass
    "compute": group_settings.ComputeSettings,
    "progress": ProgressSettings,
    "paths": group_settings.PathsSettings,
    "projection": group_settings.ProjectionSettings,
    "metrics": group_settings.MetricsSettings,
}
NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any"}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def name_of(kind: Any, bounds: str = "") -> str:
    """Return a type and its allowed values in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Option or (origin is Annotated and Arguments in (*arguments, arguments[0])):
        return "option"
    if origin is Annotated:
        metadata = [part for each in arguments[1:] for part in getattr(each, "metadata", [])]
        limits = [
            f"{word} {getattr(part, attribute):,.10g}"
            for part in metadata
            for attribute, word in BOUNDS.items()
            if getattr(part, attribute, LARGE) is not None
            and abs(getattr(part, attribute, LARGE)) < LARGE  # a bound of its own
        ]
        return name_of(arguments[0], ", ".join(limits))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        parts = [name_of(one) for one in arguments if one is not type(None)]
        return " or ".join(parts) + (" or null" if type(None) in arguments else "")
    if kind in NAMES:
        return NAMES[kind] + (f", {bounds}" if bounds else "")
    if is_dataclass(kind):
        return "group"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "option" if arguments[1:] == (Any,) and kind == get_args(Option)[:1] else "mapping"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"list of {name_of(arguments[0])}"
    return "any"


def type_at(kind: Any, path: str) -> tuple[str, bool]:
    """Return the type of a key in words, and whether the key cannot change a result."""
    neutral = False
    for name in path.split("."):
        inner = next(
            (k for k in (kind, *get_args(kind)) if isinstance(k, type) and is_dataclass(k)), None
        )
        kind = get_type_hints(inner, include_extras=True).get(name) if inner else None
        for mark in get_args(kind)[1:] if get_origin(kind) is Annotated else ():
            neutral |= isinstance(mark, ChangesNoResult) and not mark.keys
    return ("" if kind is None else name_of(kind)), neutral


def described(kind: Any, name: str) -> tuple[str, str, str]:
    """Return the type of a field in words, its description and an example ("" if missing)."""
    hint = get_type_hints(kind, include_extras=True)[name]
    texts = [one for one in get_args(hint) if getattr(one, "description", "")]
    about = texts[0] if texts else None
    example = f"{(about.examples or [''])[0]!r}" if about else ""
    return name_of(hint), about.description if about else "", example
