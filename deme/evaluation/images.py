"""The images of an evaluation, shard by shard, by one process or several.

Every process that runs the same command helps.
"""

import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from deme.builders import Compute, load_extractors, load_scores
from deme.evaluation.sources import Source, load_source
from deme.metrics import FeatureShards, ImageNetwork
from deme.runs import EvaluateSettings, Run, build, frozen_config, sample_grid
from deme.sampling.grid import image_grid
from deme.system import WorkFailed, cache_folder, files, guarded, helpers, logger

GRID_IMAGES = 64


def make_images(
    run: Run, settings: EvaluateSettings, source: Source, networks: Sequence[ImageNetwork]
) -> FeatureShards:
    """Fill the shards with `progress.processes` - 1 helper processes; save images if asked for."""
    shards = FeatureShards(run.path / "samples", source.total, settings.shard_size)
    count = min(settings.progress.processes, len(shards.missing())) - 1
    arguments = [[str(run.path), str(rank)] for rank in range(1, count + 1)]
    with helpers(__name__, arguments) as codes:
        fill(run, settings, source, networks)
    if any(codes):
        logger.warning(
            "helper processes ended with exit codes %s; this process made their images", codes
        )
    if settings.save_images == "zip":
        _zip(run.path / "samples" / "images", run.path / "samples" / "images.zip")
    return shards


def fill(
    run: Run,
    settings: EvaluateSettings,
    source: Source,
    networks: Sequence[ImageNetwork],
    finished: Callable[[], bool] = lambda: False,
) -> None:
    """Make the shards that no other process makes until all exist; the first writes the grid."""
    folder = run.path / "samples"

    def pixels(indices: Sequence[int]) -> Iterator[Tensor]:
        place, first = indices[0], []
        for batch in source.pixels(indices):
            if place < GRID_IMAGES:
                first.append(batch)
            if settings.save_images:
                _save(batch, folder / "images", place)
            place += len(batch)
            yield batch
        if first and indices[0] == 0:
            with files.atomic(sample_grid(run.path)) as file:
                image_grid(torch.cat(first)[:GRID_IMAGES]).save(file, format="PNG")

    FeatureShards(folder, source.total, settings.shard_size).fill(
        pixels, networks, "images and features", finished
    )


def _save(batch: Tensor, folder: Path, first: int) -> None:
    for index, image in enumerate(batch.permute(0, 2, 3, 1).numpy(), start=first):
        picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        with files.atomic(folder / f"{index:07d}.png", sync=False) as file:
            picture.save(file, "PNG")


def _zip(folder: Path, place: Path) -> None:
    """Move a folder's pictures into one file; after a kill, only the deletion is repeated."""
    if not place.exists():
        with files.atomic(place) as file, zipfile.ZipFile(file, "w") as archive:
            for picture in sorted(folder.glob("[!.]*.png")):  # without times, to be reproducible
                archive.writestr(zipfile.ZipInfo(picture.name), picture.read_bytes())
    shutil.rmtree(folder, ignore_errors=True)


def clear(folder: Path) -> None:
    """Delete what only an unfinished evaluation needs from its folder of samples."""
    for file in [*folder.glob("features_*"), *folder.glob("resamples_*")]:
        file.unlink()


def help_with(run: Run, settings: EvaluateSettings, rank: int = 0) -> None:
    """Make images of a run that another process owns, until all exist."""
    compute = Compute.of(settings.compute, rank)
    source, cache = load_source(run, settings, compute), cache_folder(settings.paths)
    networks = [
        *load_extractors(settings.metrics, source.data, cache, compute.device),
        *load_scores(settings.metrics, compute.device),
    ]
    done = run.path / "metrics.json"
    fill(run, settings, source, networks, done.exists)


def helper(place: str, rank: str) -> None:
    """Generate images in a helper process."""
    run = Run.planned(frozen_config(Path(place)))
    if run.path != Path(place):
        raise WorkFailed(f"the inputs of {place} have changed: they belong to {run.path} now")
    with guarded(run.path):
        help_with(run, build(EvaluateSettings, run.config), int(rank))
