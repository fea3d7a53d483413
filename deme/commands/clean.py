"""`deme clean`: find runs without any result, and delete them with yes=true.

These are runs that failed or were stopped before the first result or checkpoint, and temporary
files of killed processes.
"""

from collections.abc import Sequence

from deme.commands.arguments import places_and_values
from deme.commands.places import runs_place
from deme.report.terminal import aligned
from deme.runs import build
from deme.runs.removable_runs import delete, find_removable
from deme.runs.settings.listing import CleanOptions
from deme.system import duration, print_result, size_text

USAGE = "deme clean digits, or deme clean, then the same with yes=true"


def run(args: Sequence[str]) -> None:
    """Print what would be deleted, or delete it. Raises BadConfig, MissingInput."""
    places, given = places_and_values(args)
    options = build(CleanOptions, given, texts=True)
    place = runs_place(places, options.runs, USAGE)
    found = find_removable(place)
    if not found:
        print_result(f"{place}: nothing to delete: there are no runs without a result")
        return
    lines = [
        [
            str(removable.path),
            removable.why,
            duration(removable.age),
            size_text(removable.num_bytes),
        ]
        for removable in found
    ]
    print_result(aligned(["run without a result", "why", "age", "disk"], lines, (2, 3)))
    if not options.yes:
        words = " ".join(["deme clean", *args])
        total = size_text(sum(removable.num_bytes for removable in found))
        print_result(f"{total} would be freed; nothing is deleted yet\ntype: {words} yes=true")
        return
    gone = [removable for removable in found if delete(removable)]
    freed = size_text(sum(removable.num_bytes for removable in gone))
    kept = len(found) - len(gone)
    more = f"; {kept} kept, because a process has started to work on them" if kept else ""
    print_result(f"deleted {len(gone)} of {len(found)}, freed {freed}{more}")
