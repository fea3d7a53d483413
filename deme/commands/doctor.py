"""`deme doctor`: versions, devices, optional parts, a self test; and what a model and a data set are before they are used."""

import importlib.util
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from deme import __version__
from deme.runs.checks import check_values
from deme.runs.provenance import LIBRARIES
from deme.runs.run import say
from deme.runs.settings.base import build
from deme.runs.settings.groups import ComputeSettings, PathsSettings
from deme.system import files
from deme.system.errors import BadConfig, WorkFailed
from deme.system.paths import conf_dir, locate

OPTIONAL = {
    "cleanfid": "FID cross-check",
    "transformers": "text to image; metrics=clip, dinov2, clip_score",
    "wandb": "logger=wandb",
    "open_clip": "CLIP score (text-to-image)",
    "lmdb": "data=lsun_church, lsun_bedroom as LMDB",
    "datasets": "data from Hugging Face datasets",
}


def run(config: dict[str, Any]) -> Path:
    """Print the report; draw the data's picture and return its path, or here. Raises WorkFailed if the self test fails."""
    check_values(config)
    out = Path(str(config["out"]))
    if out.suffix.lower() != ".png":
        raise BadConfig(f"out must name a .png file, got {config['out']}")
    if not config.get("model") and not config.get("data"):
        _machine()
        _self_test()
        return Path()
    from deme.builders.compute import Compute
    from deme.builders.data import check_images
    from deme.runs.config import instantiate

    compute = Compute.of(build(ComputeSettings, config["compute"]))
    model = instantiate(config["model"]) if config.get("model") else None
    if model is not None:
        _model(config["model"], model)
    data = _data(config, model, out) if config.get("data") else None
    if model is not None and data is not None:
        check_images(data, model)
        if "path" in config["model"]:
            _passport(config, model, data, compute.device)
    return out if data is not None else Path()


def _machine() -> None:
    say(f"deme {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in LIBRARIES:
        try:
            say(f"  {name:<18} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            say(f"  {name:<18} not found")
    for module, purpose in OPTIONAL.items():
        state = "there" if importlib.util.find_spec(module) else "not installed"
        say(f"  {module:<18} {state} ({purpose})")
    say(
        f"configuration: {conf_dir()}; free disk here: {shutil.disk_usage('.').free / 2**30:.0f} GiB"
    )


def _self_test() -> None:
    import torch

    from deme.models.loading import load_pretrained

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    say(f"devices: cpu ({torch.get_num_threads()} threads){''.join(f', {name}' for name in gpus)}")
    model = load_pretrained("asset:digits_base")
    draw = torch.Generator().manual_seed(0)
    x_t = torch.randn(4, *model.image_shape, generator=draw)
    with torch.inference_mode():
        prediction = model(x_t, torch.full((4,), 999))
    agreement = float(
        torch.nn.functional.cosine_similarity(prediction.flatten(), x_t.flatten(), dim=0)
    )
    if (
        not agreement > 0.95
    ):  # at t = 999 almost all of x_t is noise, so a trained network returns it
        raise WorkFailed(
            f"self test: the shipped model recognises noise with cosine {agreement:.3f} instead of about 1"
        )
    say(
        f"self test: the shipped model ({locate('asset:digits_base').name}) recognises noise, cosine {agreement:.3f}: fine"
    )


def _model(spec: dict[str, Any], model: Any) -> None:
    count = sum(parameter.numel() for parameter in model.unet.parameters())
    snr = model.schedule.snr
    shape = str(model.image_shape)
    if model.noise_shape != model.image_shape:
        shape += f", denoised as latents {model.noise_shape}"
    say(
        f"model: {spec.get('path', 'random weights')}: {type(model.unet).__name__}, {count:,} parameters, images {shape}; "
        f"predicts {model.prediction_type}, {len(snr)} timesteps, signal to noise {float(snr[0]):.4g} to {float(snr[-1]):.3g}"
    )


def _data(config: dict[str, Any], model: Any, out: Path) -> Any:
    from deme.builders.data import load_data
    from deme.sampling.grid import image_grid

    shape = model.image_shape if model is not None else None
    data = load_data(config["data"], build(PathsSettings, config["paths"]), shape)
    assert data is not None
    indices = range(min(config["num_images"], len(data.train)))
    pixels = data.train.__getitems__([i * len(data.train) // len(indices) for i in indices])
    shape = tuple(pixels.shape[1:])
    say(
        f"data: {len(data.train):,} images to train on, {len(data.held_out):,} held out, {shape} (channels, height, width); "
        f"pixels of {len(indices)}: mean {float(pixels.float().mean()):.1f}, standard deviation {float(pixels.float().std()):.1f} of 0 to 255"
        f"{'; mirrored at random in training' if data.random_flip else ''}"
    )
    with files.atomic(out) as file:
        image_grid(pixels).save(file, format="PNG")
    say(f"drew {out}")
    return data


def _passport(config: dict[str, Any], model: Any, data: Any, device: str) -> None:
    from deme.evaluation.passport import described, passport_of, refuse_contradicted, told

    passport = passport_of(config, model, data, device)
    for line in told(passport):
        say(f"passport: {line}")
    for row in passport["fits"][:6]:
        say(f"  {row['unexplained']:>7.1%} unexplained as {described(row)}")
    refuse_contradicted(passport)
