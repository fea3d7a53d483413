"""How long `deme` takes for its help page and for a command whose run is finished.

Both are compared with starting a bare Python. `python benchmarks/startup.py` writes
benchmarks/results/startup.json: medians of wall-clock seconds.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import record

TRAIN = [
    "train",
    "num_steps=1",
    "batch_size=2",
    "progress.preview.num_images=1",
    "progress.preview.num_inference_steps=2",
]


def seconds(words: list[str], folder: str, repeats: int = 7) -> float:
    """Return the median time of a command."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run(words, cwd=folder, check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return round(statistics.median(times), 3)


def main() -> None:
    deme = str(Path(sys.executable).with_name("deme"))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([deme, *TRAIN], cwd=folder, check=True, capture_output=True)
        result = {
            "python -c pass": seconds([sys.executable, "-c", "pass"], folder),
            "deme --help": seconds([deme, "--help"], folder),
            "deme train (finished run)": seconds([deme, *TRAIN], folder),
            "python -c 'import torch'": seconds([sys.executable, "-c", "import torch"], folder, 3),
        }
    record("startup", result)


if __name__ == "__main__":
    main()
