"""The ways to run a suite and a sweep on one machine, side by side.

The smoke suite of the digits (23 runs) is made by one process, by two (`jobs=2`), and, where SLURM
answers, by two of its jobs (`launcher=slurm jobs=2`); they take turns, each in an empty folder.
Reported are medians of the ratios of wall times in one round. The cost of a job that is done
already is the CPU time of a sweep of 50 such jobs by joblib, less that of a sweep of 10, per job.
The cost of planning is the CPU time of composing a suite of 344 runs and of one look at all of
their states, per run; the cost of locking that of taking a run's lock.

`python benchmarks/launchers.py` writes results/launchers.json.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from record import record

from deme.commands.suite_worker import nodes_left
from deme.runs import Suite
from deme.system import locked

EXPERIMENTS = Path(__file__).parents[1] / "experiments" / "digits"
DEME = [sys.executable, "-m", "deme"]
WAYS = {
    "one": [],
    "two": ["jobs=2"],
    "slurm": ["launcher=slurm", "jobs=2", "launcher.hours=0.5", "launcher.memory=1.5"],
}
TINY = ["num_steps=2", "batch_size=16", "progress.preview.num_images=4",
        "progress.preview.num_inference_steps=2"]  # fmt: skip
MANY, FEW = 50, 10


def wall(words: list[str], folder: Path) -> float:
    """Return the seconds that `deme <words>` takes."""
    began = time.perf_counter()
    subprocess.run([*DEME, *words], cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - began


def cpu(words: list[str], folder: Path) -> float:
    """Return the CPU seconds of `deme <words>` and of the processes that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*DEME, *words], cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def done_job(folder: Path) -> float:
    """Return the CPU seconds of a job of a sweep that is done already."""
    sweep = ["train", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *TINY]
    subprocess.run(
        [*DEME, "train", "-m", *TINY, f"seed=range({MANY})"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    seconds = {count: cpu([*sweep, f"seed=range({count})"], folder) for count in (MANY, FEW)}
    return (seconds[MANY] - seconds[FEW]) / (MANY - FEW)


def planning(folder: Path) -> dict[str, float]:
    """Return the CPU milliseconds per run of planning a suite, of a look at it, and of a lock."""
    os.chdir(folder)
    began = time.process_time()
    nodes = Suite.read(EXPERIMENTS / "suite.yaml").nodes
    states = {node: node.state for node in nodes}
    first = time.process_time() - began
    began = time.process_time()
    for _ in range(10):
        nodes_left({node: node.state for node in nodes})
    look = (time.process_time() - began) / 10
    began = time.process_time()
    for number in range(1000):
        with locked(folder / f"{number % 8}.lock", None):
            pass
    lock = (time.process_time() - began) / 1000
    return {
        "runs": len(states),
        "first_ms_per_run": round(1e3 * first / len(nodes), 2),
        "look_ms_per_run": round(1e3 * look / len(nodes), 3),
        "lock_ms": round(1e3 * lock, 3),
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    a = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    has_slurm = subprocess.run(["squeue"], capture_output=True, check=False).returncode == 0
    ways = [way for way in WAYS if way != "slurm" or has_slurm]
    rounds = []
    with tempfile.TemporaryDirectory() as place:
        for repeat in range(a.repeats):
            found = {}
            for way in ways[repeat % len(ways) :] + ways[: repeat % len(ways)]:
                folder = Path(place, f"{way}{repeat}")
                folder.mkdir()
                found[way] = wall(
                    ["reproduce", str(EXPERIMENTS / "smoke.yaml"), *WAYS[way]], folder
                )
            rounds.append(found)
            print({way: round(seconds, 1) for way, seconds in found.items()}, flush=True)
        (folder := Path(place, "sweep")).mkdir()
        job = done_job(folder)
        (folder := Path(place, "plan")).mkdir()
        plan = planning(folder)

    def ratio(way: str, other: str) -> dict[str, float] | None:
        if way not in ways:
            return None
        values = sorted(each[way] / each[other] for each in rounds)
        return {
            "median": round(statistics.median(values), 3),
            "min": round(values[0], 3),
            "max": round(values[-1], 3),
        }

    record(
        "launchers",
        {
            "repeats": len(rounds),
            "seconds": {way: round(statistics.median(r[way] for r in rounds), 1) for way in ways},
            "two_over_one": ratio("two", "one"),
            "slurm_over_two": ratio("slurm", "two"),
            "cpu_seconds_of_a_done_job": round(job, 3),
            "planning": plan,
            "torch": torch.__version__,
            "machine": platform.machine(),
            "cores": os.cpu_count(),
        },
    )


if __name__ == "__main__":
    main()
