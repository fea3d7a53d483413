"""`deme doctor`: versions, devices, optional parts, and a self test of a few seconds."""

import importlib.util
import platform
import shutil
from importlib import metadata

from deme import __version__
from deme.errors import WorkFailed
from deme.paths import conf_dir, locate
from deme.runs import LIBRARIES, say

OPTIONAL = {
    "cleanfid": "FID cross-check",
    "transformers": "metrics=clip, metrics=dinov2",
    "wandb": "logger=wandb",
    "open_clip": "CLIP score (text-to-image)",
}


def run() -> int:
    """Print the report and return 0; raise WorkFailed if the self test fails."""
    say(f"deme {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in LIBRARIES:
        try:
            say(f"  {name:<18} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            say(f"  {name:<18} not found")
    for module, purpose in OPTIONAL.items():
        state = "there" if importlib.util.find_spec(module) else "not installed"
        say(f"  {module:<18} {state} ({purpose})")
    say(f"configuration: {conf_dir()}; free disk here: {shutil.disk_usage('.').free / 2**30:.0f} GiB")

    import torch

    from deme.models.unconditional import load

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    say(f"devices: cpu ({torch.get_num_threads()} threads){''.join(f', {name}' for name in gpus)}")
    model = load("asset:digits_base")
    draw = torch.Generator().manual_seed(0)
    x_t = torch.randn(4, *model.image_shape, generator=draw)
    with torch.inference_mode():
        prediction = model(x_t, torch.full((4,), 999))
    agreement = float(torch.nn.functional.cosine_similarity(prediction.flatten(), x_t.flatten(), dim=0))
    if not agreement > 0.95:  # at t = 999 almost all of x_t is noise, so a trained network returns it
        raise WorkFailed(
            f"self test: the shipped model recognises noise with cosine {agreement:.3f} instead of about 1"
        )
    say(
        f"self test: the shipped model ({locate('asset:digits_base').name}) recognises noise, cosine {agreement:.3f}: fine"
    )
    return 0
