"""Marks of keys that do not count, or not always, in a run's identity (deme/runs/identity.py)."""

from collections.abc import Mapping


class ChangesNoResult:
    """Marks a key, or these keys of a group, that change no result: not part of the identity."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys


NO_RESULT = ChangesNoResult()


class LeftOutAt:
    """Marks a key at these values, or keys of a group at theirs, as no part of the identity.

    They were added when there were runs without them, which did the same. With `option` the mark is
    for the option of that class or function alone.
    """

    def __init__(self, *at: object, option: str | None = None, **values: object) -> None:
        self.at, self.option, self.values = at, option, values

    def without(self, group: object) -> object:
        """Return a group without the keys that are left out at the values that they have."""
        if not isinstance(group, Mapping):
            return group
        name = str(group.get("_target_", "")).rpartition(".")[2]
        if self.option not in (None, name):
            return group
        return {
            key: value
            for key, value in group.items()
            if key not in self.values or value != self.values[key]
        }
