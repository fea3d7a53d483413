"""`deme show`: show everything about one run: state, inputs, settings, numbers, files, command.

The run is given by its directory, its name or the start of its id.
"""

import json
from collections.abc import Sequence

from deme.commands.arguments import split_args
from deme.commands.places import run_place
from deme.report.run_settings import own_settings
from deme.report.run_text import files_of, log_lines, run_text
from deme.runs import held_out_ends, sample_grids
from deme.runs.lineage import changed, command_again, lineage
from deme.runs.listing import ListedRun, read_run
from deme.runs.settings.listing import ShowOptions
from deme.system import print_result


def run(args: Sequence[str]) -> None:
    """Print everything about a run, or a JSON object. Raises BadConfig, MissingInput."""
    name, options = split_args(args, ShowOptions, "run", "deme show <run directory, name or id>")
    found = read_run(run_place(name, options.runs))
    if options.json:
        print(json.dumps(_record(found), indent=2))
    else:
        print_result(run_text(found))


def _record(run: ListedRun) -> dict[str, object]:
    command, folder = command_again(run)
    held_out = held_out_ends(run.path)
    return {
        "run": str(run.path),
        "suite": run.suite,
        "stage": run.stage,
        "state": run.state,
        "error": run.status.get("error"),
        "time": run.time,
        "seconds": run.status.get("seconds"),
        "made_from": [
            {
                "depth": source.depth,
                "key": source.key,
                "name": source.name,
                "state": None if source.run is None else source.run.state,
            }
            for source in lineage(run)
        ],
        "settings": own_settings(run),
        "changed": {
            key: {"value": value, "default": default}
            for key, (value, default) in changed(run).items()
        },
        "numbers": run.numbers,
        "held_out_loss": [each._asdict() for each in held_out] if held_out is not None else [],
        "sample_grids": {steps: str(file) for steps, file in sample_grids(run.path).items()},
        "files": files_of(run.path),
        "command": command,
        "folder": folder,
        "log": log_lines(run) if run.state != "done" else [],
    }
