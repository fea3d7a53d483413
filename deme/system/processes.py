"""Processes that help this one with its work or share it, or that torchrun or srun started."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deme.system.console import Bar, progress
from deme.system.errors import WorkFailed
from deme.system.files import remove_leftovers
from deme.system.locks import locked

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SRUN = (
    "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_LOCALID",
)  # srun's own; a batch script has no SLURM_STEP_NUM_TASKS


@contextlib.contextmanager
def helpers(
    module: str,
    arguments: Sequence[Sequence[str]],
    environments: Sequence[Mapping[str, str]] | None = None,
) -> Iterator[list[int]]:
    """Call `helper` of a module in helper processes during the block, one per arguments.

    `environments`: further environment variables of each.

    Waits for them, and stops them if the block raises; they end, too, if this process is killed.
    The list that is yielded holds their exit codes after the block. They are no part of a torchrun
    or srun around us.
    """
    codes: list[int] = []
    alone = {name: value for name, value in os.environ.items() if name not in (*TORCHRUN, *SRUN)}
    program = [sys.executable, "-m", "deme.system.helper", str(os.getpid()), module]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for words, more in zip(arguments, environments or [{}] * len(arguments), strict=True):
            started.append(_started([*program, *words], alone | {**more}))
        yield codes
    except BaseException:
        for process in started:
            process.terminate()
        raise
    finally:
        codes += [process.wait() for process in started]


def _started(command: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, env=env)
    except OSError as error:
        raise WorkFailed(
            f"a helper process cannot be started: {error.strerror or error}\n"
            "type a smaller jobs=<n> or progress.processes=<n>"
        ) from error


def absent(shards: Mapping[Path, range]) -> dict[Path, range]:
    """Return those of the files, each of some images, that are not there yet."""
    return {file: images for file, images in shards.items() if not file.exists()}


def make_shards(
    shards: Mapping[Path, range],
    make: Callable[[Path, range, Bar], None],
    name: str,
    finished: Callable[[], bool] = lambda: False,
) -> int:
    """Make the absent files of `shards`, each of some images; return when all of them exist.

    `make(file, images, bar)` writes a file that appears whole, and may advance the bar, which is
    called `name`. Processes take the files that no other process holds; the locks are the operating
    system's, so a killed process leaves none behind. A helper process passes `finished`, true once
    the files have been used and may have been deleted. Returns how many images this process made.
    """
    total, made = _count(shards), 0
    for folder in {file.parent for file in shards}:
        remove_leftovers(folder)
    with progress(name, total, "images", total - _count(absent(shards))) as bar:
        while (missing := absent(shards)) and not finished():
            for file, images in missing.items():
                with locked(file.with_suffix(".lock"), None, remove=True) as mine:
                    if mine and not file.exists() and not finished():
                        make(file, images, bar)
                        made += len(images)
                bar.advance(total - _count(absent(shards)) - bar.done)
            if absent(shards) == missing:
                time.sleep(0.1)  # other processes are at work on the rest
    return made


def _count(shards: Mapping[Path, range]) -> int:
    return sum(map(len, shards.values()))


@dataclass(frozen=True)
class World:
    """This process among those that one torchrun or one srun started.

    It is number `rank` of `size`, and `local_rank` on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    address: str = "127.0.0.1"
    port: int = 29500


def world() -> World:
    """Return who we are by torchrun's variables, or srun's where it started several tasks.

    What is typed in a shell of `srun --pty` is alone, whatever tasks that srun has.
    """
    env = os.environ
    if int(env.get("WORLD_SIZE", 1)) > 1 and "RANK" in env:
        return World(
            int(env["RANK"]),
            int(env["WORLD_SIZE"]),
            int(env.get("LOCAL_RANK", env["RANK"])),
            env.get("MASTER_ADDR", "127.0.0.1"),
            int(env.get("MASTER_PORT", 29500)),
        )
    several = int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_PROCID" in env
    if several and "SLURM_PTY_PORT" not in env:
        rank, size, local = (int(env[name]) for name in SRUN)
        nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_NODELIST", "127.0.0.1")
        job, step = (int(env.get(name, 0)) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        address = env.get("MASTER_ADDR") or first_host(nodes)
        return World(
            rank,
            size,
            local,
            address,
            int(env.get("MASTER_PORT") or 15000 + (job * 7 + step) % 15000),
        )
    return World()


def slurm_job() -> str | None:
    """Return the id of the SLURM job that this process is in: <array>_<number> in an array."""
    env = os.environ
    if "SLURM_ARRAY_JOB_ID" in env and "SLURM_ARRAY_TASK_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    return env.get("SLURM_JOB_ID")


def first_host(nodes: str) -> str:
    """Return the first machine of SLURM's list: node[07-09,12],other -> node07."""
    match = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\])?([^,\[]*)", nodes)
    assert match is not None
    return "".join(part or "" for part in match.groups())
