"""`deme publish`: send the contents of finished runs to an experiment tracker.

Run directories are the source: publishing again replaces what was sent before, or adds what is
missing at the tracker (docs/sweeps-and-tracking.md).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from deme.commands.arguments import without_paths
from deme.runs import (
    CHAIN,
    PublishSettings,
    Suite,
    build,
    check_finished,
    compose_stage,
    is_done,
    is_run,
    options,
)
from deme.system import (
    BadConfig,
    DemeError,
    MissingInput,
    exists,
    first_line,
    logger,
    print_result,
    progress,
)
from deme.tracking import Mirror, Record, read_record
from deme.tracking.suite_table import table_record

EXAMPLE = "deme publish experiments/digits logger=wandb"
STAGES = (*CHAIN, "improve")


def run(args: Sequence[str]) -> None:
    """Publish a run, the finished runs of a folder, or those of a suite with its table.

    A run that cannot be read is skipped and listed at the end. Raises BadConfig, MissingInput,
    WorkFailed.
    """
    places = [arg for arg in args if "=" not in arg]
    words = [f"paths.{arg}" if arg.startswith("runs=") else arg for arg in args if "=" in arg]
    if len(places) != 1:
        raise BadConfig(
            f"one suite, run directory or folder of runs is needed, got {len(places)}\n"
            f"type: {EXAMPLE}"
        )
    settings = build(PublishSettings, compose_stage("publish", words))
    if settings.logger is None:
        known = [name for name in options("logger") if name != "none"]
        raise BadConfig(f"logger must name a tracker; allowed: {', '.join(known)}\ntype: {EXAMPLE}")
    mirror = Mirror.of(settings.logger)
    if mirror.is_off:
        raise BadConfig(
            "WANDB_MODE or logger.mode is disabled, and nothing would be sent\n"
            "type: logger.mode=offline"
        )
    _, paths = without_paths(words)
    found = Found(Path(places[0]), Path(settings.paths.runs), paths)
    _send(found, mirror, settings.files)


class Found:
    """The runs that a path on the command line names. Raises BadConfig, MissingInput.

    `done` and `left_out`: run directories; `suite`: the suite whose table is sent too.
    """

    def __init__(self, place: Path, runs: Path, paths: Sequence[str]) -> None:
        self.suite: Suite | None = None
        self.left_out: list[str] = []
        if exists(place) and is_run(place):
            check_finished(place)
            self.done = [place]
        elif folders := list(_run_directories(place)):
            self.done = [run for run in folders if is_done(run)]
            self.left_out = [str(run) for run in folders if run not in self.done]
        else:
            self.suite = Suite.read(place, runs, paths)
            nodes = self.suite.nodes
            self.done = list(dict.fromkeys(node.path for node in nodes if node.state == "done"))
            self.left_out = [node.title for node in nodes if node.state != "done"]
        if not self.done:
            raise MissingInput(
                f"{place} has no finished runs\ntype: deme reproduce <suite>, or a run directory"
            )


def _run_directories(place: Path) -> Iterator[Path]:
    """Yield the run directories in a folder <paths.runs>/<suite>, stage by stage."""
    for stage in STAGES:
        yield from (file.parent for file in sorted(place.glob(f"{stage}/*/status.json")))


def _send(found: Found, mirror: Mirror, files: bool) -> None:
    """Send all records, and print where they are and which runs were left out."""
    place, sent, failure = "", 0, None
    total = len(found.done) + (found.suite is not None)
    with progress("publishing", total, "runs") as bar:
        for run in found.done:
            try:
                check_finished(run)
                record = read_record(run)
            except DemeError as error:
                logger.warning("left out: %s", first_line(error))
                failure = failure or error
                continue
            place, sent = mirror.send(record, files), sent + 1
            bar.advance()
        table = table_record(found.suite) if found.suite is not None else None
        if table is not None:
            place = mirror.send(table)
    print_result(_summary(sent, table, place, mirror.name))
    if found.left_out:
        print_result(
            f"{len(found.left_out)} runs are not finished and are left out: {found.left_out[0]}"
            f"{', ...' if len(found.left_out) > 1 else ''}"
        )
    if failure is not None:
        raise failure


def _summary(sent: int, table: Record | None, place: str, name: str) -> str:
    """Return a line on what was sent where, and the next command to type."""
    with_table = " and the table" if table is not None else ""
    text = f"published {sent} run{'s' * (sent != 1)}{with_table} to {place}"
    after = {
        "wandb": f"to upload it, type: wandb sync {place}/offline-run-*",
        "tensorboard": f"to see it, type: tensorboard --logdir {place}",
        "mlflow": f"to see it, type: mlflow ui --backend-store-uri sqlite:///{place}/mlflow.db",
    }
    return f"{text}\n{after[name]}" if name in after and "://" not in place else text
