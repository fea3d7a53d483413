"""How the processes of one torchrun or srun go through a training run: the first one leads."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deme.commands.arguments import check_device
from deme.runs import Run, TrainSettings, build
from deme.system import WorkFailed, logger

if TYPE_CHECKING:
    from deme.training.distributed import ProcessGroup


def run_together(
    group: "ProcessGroup", config: dict[str, object], train: Callable[[Run], None]
) -> Path:
    """Train a run in all processes unless it is done; return the run directory.

    The first process plans, locks and writes the run. `train` is called in all processes, in the
    first one first: there it has to call `group.agree(True)` when it has prepared what the others
    read from the cache.
    """
    if group.rank > 0:
        logger.setLevel(logging.ERROR)  # the first process says what happens
    with group.job():
        run = replace(Run.planned(config), is_main_process=group.rank == 0)
        check_device(run, build(TrainSettings, config).compute)
        if len({*group.agree(run.identity)}) > 1:
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
                group.agree(False)
        elif group.agree()[0]:
            train(run)
        group.agree()  # the first one has written everything
        return run.path
