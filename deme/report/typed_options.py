"""Options as typed on the command line: method=deme method.consistency_weight=1.0."""

import contextlib
from collections.abc import Collection, Mapping
from functools import cache

from deme.report.records import public_name
from deme.runs import Option, RunSettings, as_value, flat, options
from deme.runs.composed import chosen_options
from deme.runs.labels import option_of
from deme.system import DemeError

PLACES = ("path", "root", "sha256")  # keys that refer to the disk of whoever made a run


def typed_option(settings: RunSettings, group: str, hidden: Collection[str] = ()) -> str:
    """Return the overrides that select a run's option and its values, without `hidden` keys.

    Values that are paths on the disk of whoever made the run are left out too.
    """
    option: Option = getattr(settings, group)
    name = chosen_option(settings, group)
    words = [f"{group}._target_={option['_target_']}" if name is None else f"{group}={name}"]
    words += (
        f"{group}.{key}={_typed(value)}"
        for key, value in flat(option).items()
        if key.rpartition(".")[2] not in ("_target_", *PLACES, *hidden)
    )
    return " ".join(words)


def chosen_option(settings: RunSettings, group: str) -> str | None:
    """Return the name of a run's option, as typed, else found by its values.

    None for a class outside of deme, and if several options of a class match equally well.
    """
    option: Option = getattr(settings, group)
    typed = _typed_options(settings.stage, tuple(settings.overrides)).get(group)
    known = options(group)
    if typed in known:
        return typed
    name = option_of(group, {f"{group}.{key}": value for key, value in flat(option).items()})
    return name if name in known else None


@cache
def _typed_options(stage: str, overrides: tuple[str, ...]) -> Mapping[str, str]:
    # the run may be of an older version, or name files that do not exist here
    with contextlib.suppress(DemeError):
        return chosen_options(stage, overrides)
    return {}


def _typed(value: object) -> str:
    """Return a value as in an override; of a path only the last part, which can be published."""
    if isinstance(value, str) and "/" in value:
        return as_value(public_name(value))
    return as_value(value)
