"""Ways to do one thing that take turns, each in a process of its own."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from memory import peak_mb, resident_mb

Seconds = dict[str, dict[str, float]]  # way -> cpu and wall


def arguments(description: str | None, ways: Sequence[str]) -> argparse.Namespace:
    """Return --repeats, and --way, --root and --peak, which the processes are started with."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--way", choices=list(ways))
    parser.add_argument("--root", type=Path)
    parser.add_argument("--peak", action="store_true")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    return parser.parse_args()


def measure(work: Callable[[], None], filled: int, peak: bool) -> None:
    """Print the CPU and wall seconds of `work` in this process, or its peak memory, as JSON.

    Before the clock starts, `filled` bytes of memory are filled and given back.
    """
    os.sync()
    if not peak:
        torch.ones(filled // 4)  # freed at once
    resident, wall, cpu = resident_mb(), time.perf_counter(), time.process_time()
    work()
    spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    print(json.dumps({"peak_mb": peak_mb() - resident} if peak else spent))


def in_process(way: str, root: Path, *words: str) -> dict[str, float]:
    """Run this benchmark for one way in a process of its own, and return what it prints."""
    command = [sys.executable, str(Path(sys.argv[0]).resolve()), "--way", way, "--root", str(root)]
    found: dict[str, float] = json.loads(
        subprocess.check_output([*command, *words], env={**os.environ, "OMP_NUM_THREADS": "1"})
    )
    return found


def take_turns(ways: Sequence[str], root: Path, repeats: int) -> list[Seconds]:
    """Return the seconds of all ways, `repeats` times; a round before warms up."""
    rounds: list[Seconds] = []
    for repeat in range(repeats + 1):
        first = repeat % len(ways)
        found = {way: in_process(way, root) for way in (*ways[first:], *ways[:first])}
        if repeat:
            rounds.append(found)
            texts = {w: f"{found[w]['cpu']:.2f} s CPU, {found[w]['wall']:.2f} s" for w in ways}
            print(texts, flush=True)
    return rounds


def peaks(ways: Sequence[str], root: Path) -> dict[str, float]:
    """Return the peak memory of every way above what is resident before it, in megabytes."""
    return {way: round(in_process(way, root, "--peak")["peak_mb"], 1) for way in ways}


def summary(
    rounds: Sequence[Seconds], ratios: Sequence[tuple[str, str]]
) -> dict[str, Mapping[str, object]]:
    """Return seconds by way, and ratios of two ways in one round, of CPU and of wall time."""
    found: dict[str, Mapping[str, object]] = {}
    for clock in ("cpu", "wall"):
        found[f"{clock}_seconds"] = {
            way: spread([each[way][clock] for each in rounds], 3) for way in rounds[0]
        }
    for clock in ("cpu", "wall"):
        found[f"{clock}_ratios"] = {
            f"{one}_over_{other}": spread([r[one][clock] / r[other][clock] for r in rounds], 2)
            for one, other in ratios
        }
    return found


def spread(values: Sequence[float], digits: int) -> dict[str, float]:
    """Return median, smallest and largest value."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }
