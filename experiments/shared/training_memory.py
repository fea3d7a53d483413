"""Estimate the training memory of all shipped suites: `make training-memory` (three minutes)."""

import sys
import tempfile
from pathlib import Path

from deme.commands import training_memory
from deme.runs import Suite
from deme.system import read_json, write_json

EXPERIMENTS = Path(__file__).parents[1]


def main(out: Path) -> None:
    """Write {hash: memory} of every kind of training."""
    with tempfile.TemporaryDirectory() as folder:
        training_memory.SHIPPED = Path(folder, "none.json")
        write_json(training_memory.SHIPPED, {})
        for file in sorted(
            set(EXPERIMENTS.glob("[!s]*/*.yaml")) - set(EXPERIMENTS.glob("*/files.yaml"))
        ):
            suite = Suite.read(file, Path(folder, "runs"), [f"paths.cache={folder}"])
            for line in training_memory.memory_lines(suite):
                print(f"{file}: {line}", flush=True)
        found = sorted(Path(folder, "memory").glob("*.json"))
        write_json(out, {file.name[:32]: read_json(file)["memory"] for file in found})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
