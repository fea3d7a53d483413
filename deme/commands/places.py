"""Find the directory of a suite, a folder of runs or a run from what a user typed."""

from collections.abc import Sequence
from pathlib import Path

from deme.runs.listing import find_runs, looks_like_run
from deme.runs.suite_file import read_suite
from deme.system import (
    BadConfig,
    DemeError,
    MissingInput,
    did_you_mean,
    exists,
    expanded,
    locate_suite,
)

FEWEST = 4  # characters of an id, to find a run by it


def runs_place(places: Sequence[str], runs: str, usage: str) -> Path:
    """Return the folder in which a command looks for runs: all runs, those of a suite, or a folder.

    A suite is given by its name below `runs` or by its file, such as experiments/digits. Raises
    BadConfig, MissingInput.
    """
    if len(places) > 1:
        raise BadConfig(
            f"one suite or folder is taken, got {len(places)}: {', '.join(places)}\ntype: {usage}"
        )
    root = expanded(runs)
    if not places:
        if not root.is_dir():
            raise MissingInput(f"there is no folder {root} with runs\ntype: runs=<their folder>")
        return root
    (place,) = places
    for folder in (root / place, root / "debug" / place):  # debug=default has a folder of its own
        if folder.is_dir():
            return folder
    if (suite := _suite_name(place)) is not None:
        if (root / suite).is_dir():
            return root / suite
        raise MissingInput(
            f"suite {suite} has no runs in {root}\ntype: deme plan {place}, or runs=<their folder>"
        )
    if expanded(place).is_dir():
        return expanded(place)
    known = sorted(folder.name for folder in root.glob("*") if folder.is_dir())
    raise MissingInput(
        f"{place} is neither a suite with runs in {root} nor a folder; "
        f"{did_you_mean(place, known)}suites there: {', '.join(known) or '(none)'}"
    )


def run_place(name: str, runs: str) -> Path:
    """Return the directory of a run from its path, its name or the first characters of its id.

    Raises BadConfig, MissingInput.
    """
    path = expanded(name)
    if exists(path) and looks_like_run(path):
        return path
    root = expanded(runs)
    found = list(find_runs(root)) if root.is_dir() else []
    same = [run for run in found if run.name == path.name]
    if not same and len(name) >= FEWEST:
        same = [run for run in found if run.name.rpartition("-")[2].startswith(name)]
    if len(same) == 1:
        return same[0]
    if same:
        places = "\n".join(f"  {run}" for run in same)
        raise BadConfig(f"{name} may be one of {len(same)} runs:\n{places}\ntype the path of one")
    near = did_you_mean(path.name, [run.name for run in found])
    raise MissingInput(
        f"{name} is neither a run directory nor the name or id of a run in {root}\n"
        f"{near}to list runs, type: deme ls"
    )


def _suite_name(place: str) -> str | None:
    """Return the name of the suite that a file or folder describes, None if it describes none."""
    file = locate_suite(expanded(place))
    if not (file.is_file() or (file / "suite.yaml").is_file()):
        return None
    try:
        return read_suite(file)[1].suite
    except DemeError:
        if file.is_dir():
            return None
        raise
