"""How much CPU time `deme ls` takes for 1,000 runs, the first time and again.

The runs are made up: the files that `deme ls` reads, of a sweep of trainings and an evaluation of
each. `python benchmarks/list_runs.py` writes benchmarks/results/list_runs.json: seconds of CPU
time, beside those of `deme --help` and of an empty Python.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from record import record

from deme.runs import Run, compose_stage
from deme.runs.run import HEAD
from deme.system import files

NUMBER = 1000


def write_runs(folder: Path, number: int = NUMBER) -> None:
    """Write trainings with different learning rates and seeds, and an evaluation of each."""
    os.chdir(folder)
    for index in range(number // 2):
        words = ["experiment=digits/finetune", f"optimizer.lr={1e-5 * (1 + index // 5)}"]
        train = Run.planned(compose_stage("train", words, seed=index % 5))
        curve = "".join(
            json.dumps({"step": 50 * n + 49, "loss": 0.1 + 1e-4 * (index % 7) / (n + 1)}) + "\n"
            for n in range(80)
        )
        write_run(train, {"metrics.jsonl": curve, "weights/ema/deme.json": "{}\n"})
        words = ["experiment=digits/evaluate", f"inputs.weights={train.path}"]
        evaluation = Run.planned(compose_stage("evaluate", words))
        entry = {"n": 10_000, "reference": "held_out", "implementation": "a", "better": "lower"}
        values = {"fd_digits": 18 + index % 11 / 10, "loss": 0.083 + 1e-4 * (index % 13)}
        metrics = {
            name: {**entry, "value": value, "interval": [value, value]}
            for name, value in values.items()
        }
        texts = {"metrics.json": json.dumps({"cell": {}, "metrics": metrics})}
        write_run(evaluation, texts, {"weights": {str(train.path): "0"}})


def write_run(run: Run, texts: dict[str, str], inputs: dict[str, object] | None = None) -> None:
    """Write the files of a finished run."""
    body = yaml.safe_dump(run.config, sort_keys=False)
    head = HEAD.format(identity=run.identity, digest=files.sha256_text(body))
    made = {"inputs": inputs or {}, "command": ["train"], "directory": str(Path.cwd())}
    outputs = {name: len(text) for name, text in texts.items()}
    status = {"state": "done", "time": time.time(), "seconds": 60.0, "outputs": outputs}
    if "weights/ema/deme.json" in texts:
        status["weights"] = {"ema": run.identity}
    texts = {
        **texts,
        "config.yaml": f"{head}\n{body}",
        "run.json": json.dumps(made),
        "status.json": json.dumps(status),
        "log.txt": "done\n",
    }
    for name, text in texts.items():
        place = run.path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)


def cpu_seconds(words: list[str], folder: str) -> float:
    """Return the user and system time of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2)


def main() -> None:
    deme = [sys.executable, "-m", "deme"]
    with tempfile.TemporaryDirectory() as folder:
        write_runs(Path(folder))
        os.environ["DEME_CACHE"] = str(Path(folder, "cache"))
        result = {
            "python -c pass": cpu_seconds([sys.executable, "-c", "pass"], folder),
            "deme --help": cpu_seconds([*deme, "--help"], folder),
            f"deme ls, {NUMBER} runs, first time": cpu_seconds([*deme, "ls"], folder),
            f"deme ls, {NUMBER} runs, again": cpu_seconds([*deme, "ls"], folder),
        }
    record("list_runs", result)


if __name__ == "__main__":
    main()
