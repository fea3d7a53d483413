"""The commands that Hydra configures: arguments to one resolved config per job."""

import os
import re
import secrets
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from deme.cli.flags import check_flags
from deme.cli.launched import check_launcher, delete_records, launched_job, sweep
from deme.cli.sweeps import (
    SweepFolder,
    end_sweep,
    failure_message,
    is_failure,
    jobs_in,
    note_failure,
    note_success,
)
from deme.commands import stage_function
from deme.runs import (
    Config,
    compose_stage,
    config_errors,
    expand_overrides,
    labelled,
    log_weights,
    to_dict,
    typed_run,
)
from deme.system import (
    BadConfig,
    DemeError,
    as_deme_error,
    conf_dir,
    print_error,
    print_result,
    world,
)

# Hydra's own output folders and logs: a run directory describes itself already.
QUIET_HYDRA = [
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra.sweep.dir=${paths.runs}/.multirun",
    "hydra.sweep.subdir=.",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
    "+hydra.callbacks.deme._target_=deme.cli.sweeps.SweepFolder",
]
OVERRIDE = re.compile(r"[+~]*[\w/@.]+=|~")


def run(command: str, args: list[str]) -> int:
    """Run a command once, or once for each job of a sweep; return 0.

    A failing job does not stop the others. Its error is printed when it fails and again at the end
    of the sweep. The exit code is that of the first failure. A sweep ends with a table of its jobs.
    """

    def work(config: Config) -> Path:
        path = stage_function(command)(config)
        if path != Path() and world().rank == 0:  # doctor may have nothing to show
            print_result(str(path))
        return path

    overrides = expand_overrides(command, (word for word in args if OVERRIDE.match(word)))
    log_weights("model", [run for arg in args if (run := typed_run(arg)) is not None])
    flags = [arg for arg in args if not OVERRIDE.match(arg)]  # Hydra wants them together
    check_flags(command, flags)
    check_launcher(overrides)
    if not flags and not any(part.lstrip("+~").startswith("hydra") for part in overrides):
        work(compose_stage(command, overrides))  # one job: hydra.main would compose it twice
        return 0
    name, folder = f"jobs-{secrets.token_hex(8)}.jsonl", SweepFolder.found
    folder[:] = [Path("runs", ".multirun").absolute()]
    alone: list[DemeError] = []  # the failure of a job that is no sweep's
    typed, first_process = list(sys.argv), os.getpid()

    def job(config: DictConfig) -> None:  # maybe in another process
        hydra_config = HydraConfig.get()
        is_sweep = hydra_config.mode == RunMode.MULTIRUN
        words = list(hydra_config.overrides.task)
        # the number of a sweep's job
        number = OmegaConf.select(cast(DictConfig, hydra_config), "job.num", default=0)
        # not Hydra's: run.json names what makes this run again
        sys.argv = [typed[0], command, *words] if is_sweep else typed
        words.sort(key=lambda word: word not in overrides)  # a name keeps what is swept longest
        swept = [word for word in words if word not in overrides]
        keys = [word.partition("=")[0] for word in swept]
        file = folder[0] / name
        is_launched = is_sweep and os.getpid() != first_process
        with launched_job(file, number, swept) if is_launched else nullcontext(True) as goes_on:
            if not goes_on:
                return
            try:
                made = work(labelled(command, to_dict(config), words, keys))
                if is_sweep and world().rank == 0:
                    note_success(file, number, swept, made)
            except (DemeError, OSError) as caught:
                traceback.clear_frames(caught.__traceback__)  # the next job needs the memory
                error = as_deme_error(caught)
                if not is_sweep:
                    alone.append(error)
                else:
                    note_failure(file, number, swept, error, caught)

    try:
        with sweep(lambda: folder[0] / name):
            _hydra_main(command, [*flags, *QUIET_HYDRA, *overrides], job)
        jobs = jobs_in(folder[0] / name)
    except BaseException:
        for one in jobs_in(folder[0] / name):
            if is_failure(one):
                print_error(failure_message(one))
        raise
    finally:
        delete_records(folder[0] / name)
    if alone:
        raise alone[0]
    end_sweep(jobs)
    return 0


def _hydra_main(command: str, args: list[str], job: Callable[[DictConfig], None]) -> None:
    argv, sys.argv = sys.argv, ["deme", *args]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, where they get their message
    try:
        with config_errors(command, args):
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command)(job)()
    except SystemExit as error:
        if error.code not in (0, None):
            given = " ".join(arg for arg in args if arg not in QUIET_HYDRA)
            raise BadConfig(f"bad options: {given}\ntype: deme {command} --help") from error
    finally:
        sys.argv = argv
