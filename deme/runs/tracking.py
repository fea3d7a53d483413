"""Weights & Biases as a mirror of a run (offline by default); its files stay the truth."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deme.runs.settings import LoggerSettings

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run

    Tracker = Run


@contextlib.contextmanager
def mirrored(
    folder: Path, suite: str, stage: str, cell: Mapping[str, object], logger: LoggerSettings
) -> "Iterator[Tracker | None]":
    """Open the wandb run of a run directory for the block; None if the logger is disabled.

    Its group is the suite, its config the cell, its id the same when the run is resumed. Offline,
    a resumed run replaces what an earlier attempt left, and logs all steps from the first on.
    """
    if logger.mode == "disabled":
        yield None
        return
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    if logger.mode == "offline":
        for earlier in (folder / "wandb").glob(f"offline-run-*-{folder.name}"):
            shutil.rmtree(earlier, ignore_errors=True)
    run = wandb.init(
        project=logger.project,
        mode=logger.mode,
        dir=str(folder),
        id=folder.name,
        name=folder.name,
        group=suite,
        job_type=stage,
        config={"stage": stage, **cell},
        resume="allow" if logger.mode == "online" else None,
        reinit="finish_previous",
        settings=wandb.Settings(x_disable_stats=True, console="off"),
    )
    try:
        yield run
    except BaseException:
        with contextlib.suppress(Exception):  # what ended the work is the error to show
            run.finish(exit_code=1)
        raise
    run.finish()


def log(run: "Tracker | None", step: int, row: Mapping[str, float | None]) -> None:
    """Log the row of a step, unless an earlier attempt has logged later ones already."""
    if run is not None and run.step <= step:
        run.log(dict(row), step=step)


def conclude(run: "Tracker | None", metrics: Mapping[str, float], grid: Path | None) -> None:
    """Log final metrics and the sample grid, if there is a run."""
    if run is None:
        return
    import wandb
    from PIL import Image

    run.summary.update(dict(metrics))
    if grid is not None:
        with Image.open(grid, formats=["PNG"]) as image:
            run.log({"samples": wandb.Image(image)})
