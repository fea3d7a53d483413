"""The images of an evaluation, shard by shard, by one process or several; each typed command of the same run helps."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

import yaml
from PIL import Image
from torch import Tensor

from deme import files
from deme.config import make
from deme.metrics.features import FeatureExtractor
from deme.metrics.shards import FeatureShards
from deme.runs import Run, say
from deme.sampling.grid import image_grid
from deme.stages.common import Compute
from deme.stages.extractors import extractors_of
from deme.stages.sources import Source, source_of

GRID_IMAGES = 64


def shards_of(run: Run, total: int) -> FeatureShards:
    """Return the run's feature shards."""
    return FeatureShards(run.path / "samples", total, run.config["shard_size"])


def make_images(run: Run, source: Source, extractors: list[FeatureExtractor]) -> FeatureShards:
    """Fill the shards with the help of `progress.processes` - 1 other processes, and save the images if asked for."""
    shards = shards_of(run, source.total)
    missing = [first for first in shards.firsts if not shards.path(first).exists()]
    count = min(run.config["progress"]["processes"], len(missing)) - 1
    command = [sys.executable, "-m", "deme.stages.images", str(run.path)]
    helpers = [subprocess.Popen([*command, str(rank)]) for rank in range(1, count + 1)]
    try:
        fill(run, source, extractors)
    except BaseException:
        for helper in helpers:
            helper.terminate()
        raise
    finally:
        codes = [helper.wait() for helper in helpers]
    if any(codes):
        run.log(f"warning: helper processes ended with exit codes {codes}; this one made what they had not")
    if run.config["save_images"] == "zip":
        _zip(run.path / "samples" / "images", run.path / "samples" / "images.zip")
    return shards


def fill(
    run: Run,
    source: Source,
    extractors: list[FeatureExtractor],
    finished: Callable[[], bool] = lambda: False,
) -> None:
    """Make shards that nobody else makes until all are there; the first one brings the sample grid."""
    saved = run.config["save_images"]

    def pixels(indices: Sequence[int]) -> Iterator[Tensor]:
        place = indices[0]
        for batch in source.pixels(indices):
            if place == 0:
                with files.atomic(run.path / "samples" / "grid.png") as file:
                    image_grid(batch[:GRID_IMAGES]).save(file, format="PNG")
            if saved:
                _save(batch, run.path / "samples" / "images", place)
            place += len(batch)
            yield batch

    shards_of(run, source.total).fill(pixels, extractors, lambda text: say(f"  {run.path.name}: {text}"), finished)


def _save(batch: Tensor, folder: Path, first: int) -> None:
    for index, image in enumerate(batch.permute(0, 2, 3, 1).numpy(), start=first):
        buffer = BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, "PNG")
        files.write_bytes(folder / f"{index:07d}.png", buffer.getvalue(), sync=False)


def _zip(folder: Path, place: Path) -> None:
    """Put a folder's pictures into one file, and delete them."""
    pictures = sorted(folder.glob("[!.]*.png"))
    if not pictures:  # a former run got this far
        return
    with files.atomic(place) as file, zipfile.ZipFile(file, "w") as archive:
        for picture in pictures:
            archive.writestr(
                zipfile.ZipInfo(picture.name), picture.read_bytes()
            )  # with no time of writing: reproducible
    shutil.rmtree(folder)


def help_with(run: Run, rank: int = 0) -> None:
    """Make images of a run that another process owns, until all are there."""
    compute = Compute.of(run.config, rank)
    source = source_of(run, make(run.config["data"]), compute)
    fill(run, source, extractors_of(run.config, compute.device), lambda: (run.path / "metrics.json").exists())


if __name__ == "__main__":
    from deme import signals
    from deme.errors import DemeError, Stopped

    with signals.handled():
        try:
            config = yaml.safe_load(Path(sys.argv[1], "config.yaml").read_text())
            help_with(Run.planned(config), int(sys.argv[2]))
        except (DemeError, Stopped) as error:
            print(f"deme: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
