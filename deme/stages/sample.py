"""`deme sample`: a grid of images to look at, from a run or a model folder."""

from pathlib import Path
from typing import Any

from deme import files
from deme.errors import BadConfig
from deme.inputs import weights_folder
from deme.paths import locate
from deme.runs import check_numbers, say


def run(config: dict[str, Any]) -> Path:
    """Draw the grid and return its path."""
    folder = weights_folder(locate(config["run"]))
    check_numbers(config)
    out = Path(config["out"])
    if out.suffix.lower() != ".png":
        raise BadConfig(f"out must name a .png file, got {config['out']}")

    import torch

    from deme.config import make
    from deme.models.unconditional import load
    from deme.sampling.generate import generate
    from deme.sampling.grid import image_grid
    from deme.stages.common import Compute

    compute = Compute.of(config)
    model = load(str(folder)).to(compute.device)
    batches = generate(
        model,
        model.scheduler_config,
        model.image_shape,
        make(config["sampler"]),
        config["sample_seed"],
        0,
        config["num_images"],
        config["batch_size"],
        compute.device,
    )
    with files.atomic(out) as file:
        image_grid(torch.cat(list(batches))).save(file, format="PNG")
    say(f"drew {config['num_images']} images of {folder}: {out}")
    return out
