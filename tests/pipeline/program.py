"""Run `deme` as a process of its own, quickly: forked from a server that has imported the heavy libraries once."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.pipeline.preload"])

TINY_TRAIN = ["num_steps=12", "batch_size=16", "progress.log_every=1", "progress.checkpoint_every=3",
              "progress.preview.num_inference_steps=2", "progress.preview.num_images=4"]  # fmt: skip
TINY_EXPERTS = ["method=deme", "ranges.num_ranges=2", *TINY_TRAIN]
TINY_EVALUATE = ["num_images=200", "batch_size=25", "shard_size=50", "sampler.num_inference_steps=4",
                 "metrics.replicates=10", "metrics.loss.draws=2"]  # fmt: skip
TINY_SEARCH = [
    "num_images=50",
    "batch_size=50",
    "search.step=0.25",
    "sampler.num_inference_steps=2",
]


def _child(words: list[str], folder: str, out: str, patch: str) -> None:
    os.chdir(folder)
    with open(out, "w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    sys.argv = ["deme", *words]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where pytest ignores it
    if patch:
        exec(patch, {})
    from deme.cli.app import main

    code = main(words)
    sys.stdout.flush()
    os._exit(code)


@dataclass
class Program:
    """A running `deme`."""

    process: multiprocessing.process.BaseProcess
    out: Path

    @property
    def text(self) -> str:
        return self.out.read_text() if self.out.exists() else ""

    def wait(self, seconds: float = 300) -> int:
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running after {seconds} s:\n{self.text}"
        return self.process.exitcode

    def signal(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signum)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def wait_for(self, happened, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not happened() and self.process.is_alive() and time.monotonic() < end:
            time.sleep(0.005)
        assert happened(), f"it never happened:\n{self.text}"


def _ensure_server() -> None:
    """Start the server if there is none; it imports this package from wherever a test has gone to."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), before]))
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def start(words: list[str], folder: Path, patch: str = "") -> Program:
    _ensure_server()
    out = folder / f".out-{time.monotonic_ns()}"
    process = CONTEXT.Process(target=_child, args=(list(words), str(folder), str(out), patch))
    process.start()
    return Program(process, out)


def run(words: list[str], folder: Path, patch: str = "") -> tuple[int, str]:
    """Run to the end; return the exit code and everything it printed."""
    program = start(words, folder, patch)
    return program.wait(), program.text


def done(words: list[str], folder: Path) -> Path:
    """Run, require success, and return the run directory of the last line that names one."""
    code, text = run(words, folder)
    assert code == 0, text
    runs = [
        word.rstrip(":,")
        for line in text.splitlines()
        for word in line.split()
        if word.startswith("runs/")
    ]
    return folder / runs[-1] if runs else folder
