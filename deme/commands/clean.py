"""`deme clean`: find runs without any result, and delete them with yes=true.

These are runs that failed or were stopped before they had a result or a checkpoint, and what killed
processes left beside them.
"""

from collections.abc import Sequence

from deme.commands.places import runs_place
from deme.report.terminal import aligned
from deme.runs import build
from deme.runs.idle_runs import delete, find_idle
from deme.runs.settings.listing import CleanOptions
from deme.system import duration, print_result, size_text

USAGE = "deme clean digits, or deme clean, then the same with yes=true"


def run(args: Sequence[str]) -> None:
    """Say what would be freed, or delete it. Raises BadConfig, MissingInput."""
    given = dict(arg.split("=", 1) for arg in args if "=" in arg)
    options = build(CleanOptions, given, texts=True)
    place = runs_place([arg for arg in args if "=" not in arg], options.runs, USAGE)
    found = find_idle(place)
    if not found:
        print_result(f"{place}: nothing to delete: there are no runs without a result")
        return
    lines = [
        [str(idle.path), idle.why, duration(idle.age), size_text(idle.num_bytes)] for idle in found
    ]
    print_result(aligned(["never did work", "why", "age", "disk"], lines, (2, 3)))
    if not options.yes:
        words = " ".join(["deme clean", *args])
        total = size_text(sum(idle.num_bytes for idle in found))
        print_result(f"{total} would be freed; nothing is deleted yet\ntype: {words} yes=true")
        return
    gone = [idle for idle in found if delete(idle)]
    freed = size_text(sum(idle.num_bytes for idle in gone))
    kept = len(found) - len(gone)
    more = f"; {kept} kept, because a process is working on them" if kept else ""
    print_result(f"deleted {len(gone)} of {len(found)}, freed {freed}{more}")
