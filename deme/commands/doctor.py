"""`deme doctor`: show versions and devices, run a self-test, and test a model and data."""

import importlib.util
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from deme import __version__
from deme.commands.arguments import check_places, output_file
from deme.runs import LIBRARIES, DoctorSettings, build, check_options, instantiate
from deme.system import (
    WorkFailed,
    conf_dir,
    files,
    print_result,
)
from deme.system.shared_disk import check_disk

if TYPE_CHECKING:
    from deme.data import ImageData
    from deme.models.denoiser import DenoisingModel

SHAPE = (3, 64, 64)  # channels, height, width that a data set is shown in where nothing says more
OPTIONAL = {
    "cleanfid": "FID cross-check",
    "transformers": "text to image; metrics=clip, dinov2, clip_score",
    "wandb": "logger=wandb",
    "mlflow": "logger=mlflow",
    "tensorboard": "logger=tensorboard",
    "wandb_workspaces": "deme dashboard",
    "open_clip": "CLIP score (text-to-image)",
    "lmdb": "data=lsun_church, lsun_bedroom as LMDB",
    "datasets": "data from Hugging Face datasets",
    "submitit": "launcher=slurm, hydra/launcher=submitit_slurm",
}


def run(config: dict[str, object]) -> Path:
    """Print the report, and write the data's picture and return its path, or the current folder.

    Raises WorkFailed if the self-test fails, DiskError for a disk without locks.
    """
    settings = build(DoctorSettings, config)
    out = output_file(settings.out, ".png")
    if not settings.model and not settings.data:
        _machine()
        _disk(Path(settings.paths.runs))
        _self_test()
        return Path()
    check_places(settings.model, settings.data)

    from deme.builders import Compute, check_images, load_data

    check_options(settings)
    device = Compute.of(settings.compute).device
    model: DenoisingModel | None = None
    if settings.model:
        model = instantiate(settings.model)
        print_result(f"model: {settings.model.get('path', 'random weights')}: {model.description}")
    shape = model.image_shape if model is not None else SHAPE
    data = load_data(settings.data, settings.paths, shape, print_result)
    if data is None:
        return Path()
    _data(data, settings.num_images, out)
    if model is not None:
        check_images(data, model)
        _passport(settings, model, data, device)
    return out


def _machine() -> None:
    print_result(f"deme {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in LIBRARIES:
        try:
            print_result(f"  {name:<18} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print_result(f"  {name:<18} not installed")
    for module, purpose in OPTIONAL.items():
        state = "installed" if importlib.util.find_spec(module) else "not installed"
        print_result(f"  {module:<18} {state} ({purpose})")
    free = shutil.disk_usage(".").free / 2**30
    print_result(f"configuration: {conf_dir()}; free disk here: {free:.0f} GiB")


def _disk(runs: Path) -> None:
    """Print whether the disk of runs has locks that exclude other processes. Raises DiskError."""
    place = next(each for each in (runs.absolute(), *runs.absolute().parents) if each.exists())
    check_disk(place)
    print_result(f"disk of {place}: locks exclude other processes, and renames replace files")


def _self_test() -> None:
    import torch

    from deme.models.loading import load_pretrained

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print_result(", ".join([f"devices: cpu ({torch.get_num_threads()} threads)", *gpus]))
    model = load_pretrained("asset:digits_base")
    draw = torch.Generator().manual_seed(0)
    x_t = torch.randn(4, *model.image_shape, generator=draw)
    with torch.inference_mode():
        prediction = model(x_t, torch.full((4,), 999)).flatten()
    cosine = float(torch.nn.functional.cosine_similarity(prediction, x_t.flatten(), dim=0))
    # at t = 999 almost all of x_t is noise, so a trained network predicts x_t
    if not cosine > 0.95:
        raise WorkFailed(
            f"self-test failed: the cosine of noise and the shipped model's prediction is "
            f"{cosine:.3f}, not about 1"
        )
    print_result(
        f"self-test passed: the shipped model (digits_base) predicts noise, cosine {cosine:.3f}"
    )


def _data(data: "ImageData", num_images: int, out: Path) -> None:
    """Print pixel statistics, and write a grid of evenly spaced training images."""
    from deme.sampling.grid import image_grid

    count = min(num_images, len(data.train))
    pixels = data.train.__getitems__([i * len(data.train) // count for i in range(count)])
    values = pixels.float()
    print_result(
        f"pixels of {count}: mean {float(values.mean()):.1f}, "
        f"standard deviation {float(values.std()):.1f} of 0 to 255"
    )
    with files.atomic(out) as file:
        image_grid(pixels).save(file, format="PNG")
    print_result(f"wrote {out}")


def _passport(
    settings: DoctorSettings, model: "DenoisingModel", data: "ImageData", device: str
) -> None:
    """Print which prediction type, schedule and value range the weights fit."""
    from deme.evaluation.passport import (
        describe,
        format_passport,
        load_passport,
        raw_warning,
        refuse_contradicted,
    )

    if "path" not in (settings.model or {}):
        return
    passport = load_passport(settings, model, data, device, settings.passport.num_images)
    for line in [*format_passport(passport), *raw_warning(passport)]:
        print_result(f"passport: {line}")
    for row in passport["fits"][:6]:
        print_result(f"  {row['unexplained']:>7.1%} unexplained as {describe(row)}")
    refuse_contradicted(passport)
