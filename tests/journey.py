"""What a newcomer does with a folder of images, from nothing to a better model in stock diffusers.

`python -m tests.journey <folder of images> <empty folder>` plays it and says how long each step took.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import yaml

ROWS = ("before", "finetune", "deme_before_merge", "deme_uniform")  # that are kept
TRACKERS = {"wandb": "wandb", "tensorboard": "tensorboard", "mlflow": "mlflow", "csv": "csv"}
Play = Callable[[list[str], Path], str]  # a command in a folder: what it printed


@dataclass(frozen=True)
class Sizes:
    """How much is done; the words are added to commands."""

    pretrain_steps: int = 300
    expert_steps: int = 25
    pretrain: Sequence[str] = ("batch_size=64",)
    reproduce: Sequence[str] = ("jobs=2",)
    improve: Sequence[str] = ("steps_per_expert=10", "ideas=[finetune,soup]")
    shared: Sequence[str] = ()  # of the rows of the suite
    seconds: dict[str, float] = field(default_factory=dict)  # that each step took


def journey(play: Play, folder: Path, sizes: Sizes) -> None:
    """Play it in a folder that has my_images/; a step that fails raises.

    Afterwards there are mine.yaml, runs/my_images/ with table and page, better/ if a better model
    was found, and stock/, which diffusers has loaded.
    """

    def step(*words: str) -> str:
        began = time.monotonic()
        printed = play(list(words), folder)
        name = " ".join(word for word in words[:2] if "=" not in word or word.startswith("logger="))
        sizes.seconds[name] = sizes.seconds.get(name, 0.0) + time.monotonic() - began
        return printed

    data = "data=my_images/"
    step("doctor", data)
    steps = f"num_steps={sizes.pretrain_steps}"
    printed = step("train", "method=pretrain", data, steps, "suite=first", *sizes.pretrain)
    base = last_line(printed)
    step("doctor", f"model={base}", data)
    step("new-suite", data, f"model={base}", "out=mine.yaml")
    edit(folder / "mine.yaml", sizes)
    step("plan", "mine.yaml")
    step("reproduce", "mine.yaml", *sizes.reproduce)
    step("ls", "mine")
    step("report", "mine.yaml")
    for logger, module in TRACKERS.items():
        if find_spec(module):
            step("publish", "mine.yaml", f"logger={logger}")
    step("dashboard", "mine.yaml")
    improved = last_line(step("improve", f"model={base}", data, "out=better", *sizes.improve))
    step("report", str(next((folder / "runs/improve/improve").iterdir()).relative_to(folder)))
    better = improved if (folder / "better").is_dir() else base
    step("sample", f"run={{before: {base}, after: {better}}}", "num_images=9", "out=grid.png")
    step("export", f"run={better}", "out=stock", "dtype=bfloat16")


def edit(file: Path, sizes: Sizes) -> None:
    """Delete rows of a new suite, as its first lines say, and train them less."""
    suite = yaml.safe_load(file.read_text())
    suite["rows"] = [row for row in suite["rows"] if row["name"] in ROWS]
    suite["comparisons"] = [pair for pair in suite["comparisons"] if {*pair} <= {*ROWS}]
    suite["finetune_seeds"] = [0]
    for row in suite["rows"]:
        steps = sizes.expert_steps * (1 if "experts" in row else 4)
        if "train" in row:
            row["train"] = [w for w in row["train"] if not w.startswith("num_steps=")]
            row["train"] += [f"num_steps={steps}", *sizes.shared]
    file.write_text(yaml.safe_dump(suite, sort_keys=False))


def last_line(printed: str) -> str:
    """Return the last line, where commands print what they made."""
    return printed.strip().splitlines()[-1]


def in_a_terminal(words: list[str], folder: Path) -> str:
    """Run a command as a process of its own, and show what it says."""
    print("$ deme", *words, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "deme", *words], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    print(done.stdout, flush=True)
    if done.returncode:
        sys.exit(f"deme {' '.join(words)} ended with exit code {done.returncode}")
    return done.stdout


def load_in_diffusers(folder: Path, num_steps: int = 10) -> tuple[int, int]:
    """Generate an image of a model folder with diffusers alone; return its size."""
    import torch
    from diffusers import DDPMPipeline

    pipeline = DDPMPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(num_inference_steps=num_steps).images[0]
    size: tuple[int, int] = image.size
    return size


def main() -> None:
    """Play it with a folder of the user's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(given.images, given.folder / "my_images")
    sizes = Sizes()
    journey(in_a_terminal, given.folder, sizes)
    print("stock diffusers:", load_in_diffusers(given.folder / "stock"))
    for name, seconds in sizes.seconds.items():
        print(f"{seconds:7.1f} s  {name}")
    print(f"{sum(sizes.seconds.values()) / 60:7.1f} minutes in all")


if __name__ == "__main__":
    main()
