"""The images of an evaluation, shard by shard, by one process or several; each typed command of the same run helps."""

import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch import Tensor

from deme.builders.compute import Compute
from deme.builders.metrics import load_extractors, load_scores
from deme.evaluation.sources import Source, source_of
from deme.metrics.shards import FeatureShards
from deme.runs.run import Run, say
from deme.runs.settings.base import build
from deme.runs.settings.groups import ComputeSettings, MetricsSettings
from deme.sampling.grid import image_grid
from deme.system import files
from deme.system.errors import DemeError, Stopped, WorkFailed
from deme.system.processes import helpers

GRID_IMAGES = 64


def shards_of(run: Run, total: int) -> FeatureShards:
    """Return the run's feature shards."""
    return FeatureShards(run.path / "samples", total, run.config["shard_size"])


def make_images(run: Run, source: Source, extractors: list[Any]) -> FeatureShards:
    """Fill the shards with the help of `progress.processes` - 1 other processes, and save the images if asked for."""
    shards = shards_of(run, source.total)
    missing = [first for first in shards.firsts if not shards.path(first).exists()]
    count = min(run.config["progress"]["processes"], len(missing)) - 1
    arguments = [[str(run.path), str(rank)] for rank in range(1, count + 1)]
    with helpers("deme.evaluation.images", arguments) as codes:
        fill(run, source, extractors)
    if any(codes):
        run.log(
            f"warning: helper processes ended with exit codes {codes}; this one made what they had not"
        )
    if run.config["save_images"] == "zip":
        _zip(run.path / "samples" / "images", run.path / "samples" / "images.zip")
    return shards


def fill(
    run: Run,
    source: Source,
    extractors: list[Any],
    finished: Callable[[], bool] = lambda: False,
) -> None:
    """Make shards that nobody else makes until all are there; the first one brings the sample grid."""
    saved = run.config["save_images"]

    def pixels(indices: Sequence[int]) -> Iterator[Tensor]:
        place, first = indices[0], []
        for batch in source.pixels(indices):
            if place < GRID_IMAGES:
                first.append(batch)
            if saved:
                _save(batch, run.path / "samples" / "images", place)
            place += len(batch)
            yield batch
        if first and indices[0] == 0:
            with files.atomic(run.path / "samples" / "grid.png") as file:
                image_grid(torch.cat(first)[:GRID_IMAGES]).save(file, format="PNG")

    shards_of(run, source.total).fill(
        pixels, extractors, lambda text: say(f"  {run.path.name}: {text}"), finished
    )


def _save(batch: Tensor, folder: Path, first: int) -> None:
    for index, image in enumerate(batch.permute(0, 2, 3, 1).numpy(), start=first):
        buffer = BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, "PNG")
        files.write_bytes(folder / f"{index:07d}.png", buffer.getvalue(), sync=False)


def _zip(folder: Path, place: Path) -> None:
    """Put a folder's pictures into one file, and delete them. The file once written, what is left of the folder goes."""
    if not place.exists():
        with files.atomic(place) as file, zipfile.ZipFile(file, "w") as archive:
            for picture in sorted(folder.glob("[!.]*.png")):
                archive.writestr(
                    zipfile.ZipInfo(picture.name), picture.read_bytes()
                )  # no time of writing: reproducible
    shutil.rmtree(folder, ignore_errors=True)


def clear(run: Run) -> None:
    """Delete what only an unfinished evaluation needs."""
    shards_of(run, 0).remove()
    for journal in (run.path / "samples").glob("resamples_*"):
        journal.unlink()


def help_with(run: Run, finished: Callable[[], bool] = lambda: False, rank: int = 0) -> None:
    """Make images of a run that another process owns, until all are there, or it is `finished`."""
    compute = Compute.of(build(ComputeSettings, run.config["compute"]), rank)
    source = source_of(run, compute)
    done = run.path / "metrics.json"
    metrics = build(MetricsSettings, run.config["metrics"])
    extractors = [
        *load_extractors(metrics, compute.device),
        *load_scores(metrics, compute.device),
    ]
    fill(run, source, extractors, lambda: finished() or done.exists())


def _main(place: str, rank: str) -> None:
    """Help as a process of its own; end with the process that started it."""
    parent = os.getppid()
    run = Run.planned(yaml.safe_load(Path(place, "config.yaml").read_text()))
    if run.path != Path(place):
        raise WorkFailed(f"{place}: its inputs have changed, they make {run.path} now")
    help_with(run, lambda: os.getppid() != parent, int(rank))


if __name__ == "__main__":
    from deme.system import signals

    with signals.handled():
        try:
            _main(*sys.argv[1:])
        except (DemeError, Stopped) as error:
            print(f"deme: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
