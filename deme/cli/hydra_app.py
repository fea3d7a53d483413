"""The commands that Hydra configures: arguments to one resolved config per job."""

import json
import os
import re
import secrets
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from typing_extensions import TypedDict

from deme.commands import stage_function
from deme.runs import (
    Config,
    compose_stage,
    config_errors,
    expand_path_shortcut,
    is_run,
    log_weights,
    to_dict,
)
from deme.system import (
    BadConfig,
    DemeError,
    MissingInput,
    WorkFailed,
    append_line,
    as_deme_error,
    conf_dir,
    did_you_mean,
    exists,
    logger,
    print_error,
    print_result,
    read_jsonl,
    world,
)
from deme.system.errors import DiskError

ERRORS = (BadConfig, MissingInput, WorkFailed, DiskError)

# Hydra's own output folders and logs: a run directory describes itself already.
QUIET_HYDRA = [
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra.sweep.dir=${paths.runs}/.multirun",
    "hydra.sweep.subdir=.",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
    "+hydra.callbacks.deme._target_=deme.cli.hydra_app.SweepFolder",
]
OVERRIDE = re.compile(r"[+~]*[\w/@.]+=|~")
HYDRA_FLAGS = (
    "-m", "--multirun", "-c", "--cfg", "--resolve", "-p", "--package", "-i", "--info",
    "-cd", "--config-dir", "-cn", "--config-name", "-cp", "--config-path", "--hydra-help",
)  # fmt: skip


class SweepFolder(Callback):
    """Notes the folder of a sweep: all its jobs see its disk, on whichever machine they run."""

    found: ClassVar[list[Path]] = []

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        """Hydra calls this before the first job."""
        self.found[:] = [Path(config.hydra.sweep.dir).absolute()]


class _Failure(TypedDict):
    """A job of a sweep that failed: its swept values, the error's exit code and message."""

    job: str
    exit_code: int
    message: str


def run(verb: str, args: list[str]) -> int:
    """Run a command once, or once for each job of a sweep; return 0.

    A failing job does not stop the others. Every one is named when it fails, and again when the
    sweep ends or is stopped; the exit code is that of the first.
    """

    def work(config: Config) -> None:
        path = stage_function(verb)(config)
        if path != Path() and world().rank == 0:  # doctor may have nothing to show
            print_result(str(path))

    overrides = [part for a in args if OVERRIDE.match(a) for part in expand_path_shortcut(a)]
    for value in (arg.removeprefix("model=") for arg in args if arg.startswith("model=")):
        if exists(value) and is_run(Path(value)):
            log_weights("model", [Path(value)])
    flags = [arg for arg in args if not OVERRIDE.match(arg)]  # Hydra wants them together
    for flag in (arg.split("=")[0] for arg in flags if arg.startswith("-")):
        if flag not in HYDRA_FLAGS:
            near = did_you_mean(flag, HYDRA_FLAGS)
            raise BadConfig(f"unknown flag {flag}; {near}allowed: {', '.join(HYDRA_FLAGS)}")
    if not flags and not any(part.lstrip("+~").startswith("hydra") for part in overrides):
        work(compose_stage(verb, overrides))  # one job: hydra.main would compose it twice
        return 0
    name, folder = f"failed-{secrets.token_hex(8)}.jsonl", SweepFolder.found
    folder[:] = [Path("runs", ".multirun").absolute()]
    alone: list[DemeError] = []  # the failure of a job that is no sweep's
    typed = list(sys.argv)

    def job(config: DictConfig) -> None:  # maybe in another process
        is_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        # not Hydra's: run.json names what makes this run again
        sys.argv = [typed[0], verb, *HydraConfig.get().overrides.task] if is_sweep else typed
        try:
            work(to_dict(config))
        except (DemeError, OSError) as caught:
            traceback.clear_frames(caught.__traceback__)  # the next job needs the memory
            error = as_deme_error(caught)
            if is_sweep:
                swept = [word for word in sys.argv[2:] if word not in overrides]
                _note(folder[0] / name, " ".join(swept), error)
            else:
                alone.append(error)

    try:
        _hydra_main(verb, [*flags, *QUIET_HYDRA, *overrides], job)
    except BaseException:
        for one in _failures(folder[0] / name):
            print_error(_named(one))
        raise
    if alone:
        raise alone[0]
    failures = _failures(folder[0] / name)
    for one in failures[1:]:
        print_error(_named(one))
    if failures:
        raise next(
            (kind for kind in ERRORS if kind.exit_code == failures[0]["exit_code"]), DemeError
        )(_named(failures[0]))
    return 0


def _failures(file: Path) -> list[_Failure]:
    found = read_jsonl(file, _Failure)
    if found:
        file.unlink(missing_ok=True)
    return found


def _named(failure: _Failure) -> str:
    job, message = failure["job"], failure["message"]
    return message if message.startswith(job) else f"{job}: {message}"


def _note(file: Path, job: str, error: DemeError) -> None:
    """Say that a job of a sweep failed, and keep it for the end of the sweep."""
    one: _Failure = {"job": job, "exit_code": error.exit_code, "message": str(error)}
    logger.error("%s", _named(one).splitlines()[0])
    append_line(file, json.dumps(one))


def _hydra_main(verb: str, args: list[str], job: Callable[[DictConfig], None]) -> None:
    argv, sys.argv = sys.argv, ["deme", *args]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, where they get their message
    try:
        with config_errors(verb, args):
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=verb)(job)()
    except SystemExit as error:
        if error.code not in (0, None):
            given = " ".join(arg for arg in args if arg not in QUIET_HYDRA)
            raise BadConfig(f"bad options: {given}\ntype: deme {verb} --help") from error
    finally:
        sys.argv = argv
