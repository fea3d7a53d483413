"""Weights & Biases as a mirror of a run (offline by default); its files stay the truth."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deme.runs.settings import LoggerSettings

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run

    Tracker = Run


def start(
    folder: Path, suite: str, stage: str, cell: Mapping[str, object], logger: LoggerSettings
) -> "Tracker | None":
    """Open the wandb run of a run directory; its id is stable across resumes.

    Its group is the suite, its config the cell. Returns None if the logger is disabled.
    """
    if logger.mode == "disabled":
        return None
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    return wandb.init(
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


def finish(run: "Tracker | None", metrics: Mapping[str, float], grid: Path | None) -> None:
    """Log final metrics and the sample grid, and close the run, if there is one."""
    if run is None:
        return
    import wandb
    from PIL import Image

    run.summary.update(dict(metrics))
    if grid is not None:
        with Image.open(grid, formats=["PNG"]) as image:
            run.log({"samples": wandb.Image(image)})
    run.finish()
