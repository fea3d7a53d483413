"""How the processes of one torchrun or srun go through a training run: the first one leads."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deme.commands.train_checks import check_before
from deme.runs import Run, TrainSettings, build
from deme.system import WorkFailed, logger

if TYPE_CHECKING:
    from deme.training.distributed import ProcessGroup


def run_together(
    group: "ProcessGroup", config: dict[str, object], train: Callable[[Run], None]
) -> Path:
    """Train a run in all processes unless it is done; return the run directory.

    The first process plans, locks and writes the run. `train` is called there first, and has to
    call `group.all_gather(True)` when it has prepared what the others read from the cache; then it
    is called in the other processes.
    """
    if group.rank > 0:
        logger.setLevel(logging.ERROR)  # the first process says what happens
    with group.job():
        run = replace(Run.planned(config), is_main_process=group.rank == 0)
        check_before(run, build(TrainSettings, config))
        if len({*group.all_gather(run.identity)}) > 1:
            raise WorkFailed(
                "the processes were given different runs\ntype the same arguments in all of them"
            )
        has_begun = False

        def begin(run: Run) -> None:
            nonlocal has_begun
            has_begun = True
            train(run)

        if run.is_main_process:
            run.execute(begin)
            if not has_begun:
                group.all_gather(False)
        elif group.all_gather()[0]:
            train(run)
        group.all_gather()  # the first one has written everything
        return run.path
