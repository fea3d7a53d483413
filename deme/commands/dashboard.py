"""`deme dashboard`: create a Weights & Biases workspace for a suite sent with `deme publish`.

Without an API key it writes the specification of the workspace as a JSON file.
"""

from collections.abc import Sequence
from pathlib import Path

from deme.commands.arguments import split_args
from deme.runs import DashboardOptions, Suite
from deme.system import MissingInput, expanded, logger, print_result
from deme.tracking import FOLDER

EXAMPLE = "deme dashboard experiments/digits entity=<user or team>"


def run(args: Sequence[str]) -> None:
    """Write the specification, and upload it if there is an API key. Raises MissingInput."""
    from deme.tracking.dashboard import is_online, make_workspace, save

    place, options = split_args(args, DashboardOptions, "suite", EXAMPLE)
    suite = Suite.read(Path(place), Path(options.runs))
    online = is_online()
    entity = options.entity
    if online and entity is None:
        raise MissingInput(
            "a dashboard is uploaded to a user or team of Weights & Biases\n"
            f"type: {EXAMPLE}; or WANDB_MODE=offline to write it to a file"
        )
    home = Path(options.runs, suite.name, FOLDER, "wandb")
    if not home.is_dir():
        logger.warning(
            f"nothing of this suite is in {home} yet; first type: deme publish {place} logger=wandb"
        )
    file = expanded(options.out) if options.out is not None else home / "dashboard.json"
    url = save(make_workspace(suite, options.project, entity), file, online)
    print_result(f"wrote {file}")
    if url is not None:
        print_result(url)
    else:
        print_result(
            f"to upload it, type: wandb login; then WANDB_MODE=online deme dashboard {place} "
            f"project={options.project} entity=<user or team>"
        )
