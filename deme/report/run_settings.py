"""Find the settings that differ between runs of one stage."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deme.runs.composed import Flat
from deme.runs.identity import changes_no_result
from deme.runs.labels import DEFAULT_LABELS, is_labelled_by_user, option_of, value_text
from deme.runs.listing import ListedRun, read_run
from deme.runs.settings import CELL_LETTERS, RUNS, SETTINGS

LABELS = ("base", "pretrain_seed")  # labels that are not settings
# inputs whose settings are listed with those of the run
INPUTS = ("weights", "experts", "run", "snapshots_of")
TARGET = "._target_"
DEPTH = 8  # levels of runs made from runs: experts, averages, merges, evaluations


class Settings:
    """The settings of runs that can change results, including those of the runs they are made from.

    An evaluation thus has the learning rate of the model that it measures.
    """

    def __init__(self, runs: Iterable[ListedRun]) -> None:
        self._by_name = {run.name: run for run in runs}
        self._known: dict[Path, Flat] = {}

    def of(self, run: ListedRun, depth: int = DEPTH) -> Flat:
        """Return the settings of a run by dotted key; options by their names."""
        if run.path not in self._known:
            own = own_settings(run)
            inherited = self._inherited(run, depth)
            given = {key: value for key, value in own.items() if value is not None}
            self._known[run.path] = {**own, **inherited, **given}
        return self._known[run.path]

    def _inherited(self, run: ListedRun, depth: int) -> Flat:
        """Return the settings that all runs share from which a run is made."""
        if run.stage == "train" or depth == 0:
            return {}
        places = [place for name in INPUTS for place in run.inputs.get(name, [])]
        models = [self.of(self._run_at(place), depth - 1) for place in places]
        first = models[0] if models else {}
        return {
            key: value
            for key, value in first.items()
            if all(key in other and other[key] == value for other in models)
        }

    def _run_at(self, place: Path) -> ListedRun:
        places = (place, *place.parents)  # weights/raw of a run
        if known := next((each for each in places if each.name in self._by_name), None):
            return self._by_name[known.name]
        run = next((each for each in places if (each / "run.json").exists()), place)
        return self._by_name.setdefault(run.name, read_run(run))


def own_settings(run: ListedRun) -> Flat:
    """Return the settings of a run that can change its results, and its labels."""
    if run.stage not in SETTINGS:
        return {}
    found: Flat = {}
    for key, value in run.settings.items():
        if key == "stage" or changes_no_result(run.stage, key):
            continue
        if not key.endswith(TARGET):
            found[key] = value
            continue
        option = key.removesuffix(TARGET)
        label = run.settings.get(f"cell.{option}") if option != "method" else None
        found[option] = label or option_of(option, run.settings)
    method = run.settings.get("cell.method")
    overrides = run.settings.get("overrides") or []
    if is_labelled_by_user(overrides) or method not in DEFAULT_LABELS.values():
        found["method"] = method
    labels = {name: run.settings.get(f"cell.{name}") for name in LABELS}
    return found | {name: label for name, label in labels.items() if label is not None}


def differing(runs: Sequence[ListedRun], settings: Settings) -> list[str]:
    """Return the keys whose values differ between runs of one stage, options before their own keys.

    The keys of an option are compared only between runs that chose the same option.
    """
    found: dict[str, None] = {}
    for stage in dict.fromkeys(run.stage for run in runs):
        flats = [settings.of(run) for run in runs if run.stage == stage and run.settings]
        for key in dict.fromkeys(key for each in flats for key in each):
            values: dict[str, list[Any]] = {}
            for each in flats:
                if key in each:
                    option, dot, _ = key.partition(".")
                    values.setdefault(str(each.get(option)) if dot else "", []).append(each[key])
            if any(_differ(group) for group in values.values()):
                found[key] = None
    return sorted(found, key=_place)


def _place(key: str) -> int:
    """Return the position of a key's column: labels first, seeds last."""
    if key in (*LABELS, "method"):
        return 0
    return 2 if key in CELL_LETTERS else 1


def in_order(runs: Iterable[ListedRun], settings: Settings, keys: Sequence[str]) -> list[ListedRun]:
    """Return the runs of each suite and stage, sorted by the settings that differ."""
    stages = {stage: number for number, stage in enumerate(RUNS)}

    def order(run: ListedRun) -> tuple[object, ...]:
        values = settings.of(run)
        place = (str(run.path.parent.parent), stages.get(run.stage, len(stages)))
        return (*place, *(_sortable(values.get(key)) for key in keys), run.name)

    return sorted(runs, key=order)


def _sortable(value: Any) -> tuple[int, float, str]:
    """Return a sort key: missing values before numbers, and numbers before texts."""
    if value is None:
        return (0, 0.0, "")
    if isinstance(value, (int, float)):
        return (1, float(value), "")
    return (2, 0.0, str(value))


def _differ(values: Sequence[Any]) -> bool:
    return any(value != values[0] for value in values)


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Return each key shortened to its last parts, as short as is unique: lr, method.teacher."""
    found = {}
    for key in keys:
        parts = key.split(".")
        endings = [".".join(parts[-number:]) for number in range(1, len(parts) + 1)]
        others = [f".{other}" for other in keys if other != key]
        found[key] = next(
            (
                ending
                for ending in endings
                if not any(other.endswith(f".{ending}") for other in others)
            ),
            key,
        )
    return found


def find_key(typed: str, known: Iterable[str]) -> list[str]:
    """Return the keys that match a typed one: the key itself, or keys that end with it."""
    names = list(dict.fromkeys(known))
    return [typed] if typed in names else [each for each in names if each.endswith(f".{typed}")]


def text_of(value: Any, longest: int = 40) -> str:
    """Return the value of a setting as a text of at most `longest` characters."""
    text = value_text(value)
    return text if len(text) <= longest else f"{text[: longest - 2]}.."
