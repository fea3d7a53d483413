"""CPU time of `deme plan` and `deme table` on experiments/digits.

It is measured with none of its 344 runs done and with all done.

`python benchmarks/planning.py` fakes the finished runs in a temporary folder, measures, and writes
benchmarks/results/planning.json: CPU seconds (user and system) of whole processes, of the first
call, which composes configurations and draws pictures, and the median of the next three; and
whether torch was imported.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from record import record

from deme.runs import Node, Run, Suite
from deme.system import files

DIGITS = Path(__file__).parents[1] / "experiments" / "digits" / "suite.yaml"
METRICS = ("fd_digits", "loss", "loss/0", "loss/1", "loss/2", "loss/3")
PROGRAM = (
    "import sys; from deme.cli.app import main; code = main(sys.argv[1:]); "
    "sys.stderr.write('torch' if 'torch' in sys.modules else ''); sys.exit(code)"
)


def fake(node: Node, rng: np.random.Generator) -> None:
    """Write what plans and tables read of a finished run: its settings, state and numbers."""

    def work(run: Run) -> None:
        weights = run.path / "weights" / "fake"
        if node.stage in ("train", "merge"):
            files.write_text(weights / "model.safetensors", node.title)
        if node.stage in ("train", "search"):
            files.write_json(run.path / "cost.json", {"num_forward_passes": 1000})
        if node.stage == "search":
            files.write_json(run.path / "best.json", {"weights": [0.5] * 4, "score": 1.0})
        if node.stage == "evaluate":
            about = {"n": 5000, "better": "lower", "reference": "images", "implementation": "none"}
            values = {name: {"value": float(rng.normal(3, 0.1)), **about} for name in METRICS}
            replicates = {name: list(rng.normal(3, 0.1, 200)) for name in METRICS}
            files.write_json(
                run.path / "metrics.json", {"cell": run.config["cell"], "metrics": values}
            )
            files.write_json(run.path / "replicates.json", replicates)

    assert isinstance(node.run, Run)
    node.run.execute(work)


def cpu_seconds(args: list[str], folder: Path, repeats: int = 3) -> dict[str, object]:
    """Return the median CPU time of `deme <args>`, and whether it imported torch."""
    times, text = [], ""
    for _ in range(repeats + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        text = subprocess.run(
            [sys.executable, "-c", PROGRAM, *args],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        ).stderr
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return {
        "cpu_seconds": round(statistics.median(times[1:]), 2),
        "first_cpu_seconds": round(times[0], 2),
        "torch_imported": text.rstrip().endswith("torch"),
    }


def main() -> None:
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["DEME_CACHE"] = str(folder / "cache")
        text = DIGITS.read_text() + "results: results\n"
        (folder / "suite.yaml").write_text(text)
        verbs = ("plan", "table")
        for verb in verbs:
            result[f"deme {verb}, none done"] = cpu_seconds([verb, "suite.yaml"], folder)
        suite = Suite.read(folder / "suite.yaml", folder / "runs")
        result["runs"] = len(suite.nodes)
        rng = np.random.default_rng(0)
        for node in suite.nodes:
            fake(node, rng)
        for verb in verbs:
            found = cpu_seconds([verb, "suite.yaml", f"runs={folder / 'runs'}"], folder)
            result[f"deme {verb}, all done"] = found
    record("planning", json.loads(json.dumps(result)))


if __name__ == "__main__":
    main()
