"""`deme sample`: a grid of images of one or several models, to look at; all start from the same noise."""

from pathlib import Path
from typing import Any

from deme import files
from deme.checks import check_numbers
from deme.errors import BadConfig
from deme.inputs import weights_folder
from deme.paths import locate
from deme.runs import say


def run(config: dict[str, Any]) -> Path:
    """Draw the grid and return its path."""
    places = _places(config["run"])
    check_numbers(config)
    out = Path(str(config["out"]))
    if out.suffix.lower() != ".png":
        raise BadConfig(f"out must name a .png file, got {config['out']}")

    import torch

    from deme.config import make
    from deme.merging.plan import order_experts
    from deme.report.figures import labelled, png
    from deme.sampling.generate import generate
    from deme.sampling.grid import image_grid
    from deme.stages.common import Compute, routed, single

    compute = Compute.of(config)
    grids, shapes = [], {}
    for label, folders in places.items():
        loaded = single(folders[0], compute) if len(folders) == 1 else routed(order_experts(folders), compute)
        shapes[label] = loaded.model.image_shape
        if len(set(shapes.values())) > 1:
            raise BadConfig(f"these models do not start from the same noise, their images differ in shape: {shapes}")
        batches = generate(
            loaded.network,
            loaded.model.scheduler_config,
            loaded.model.image_shape,
            make(config["sampler"]),
            config["sample_seed"],
            range(config["num_images"]),
            config["batch_size"],
            compute.device,
        )
        grids.append((label, image_grid(torch.cat(list(batches)))))
    with files.atomic(out) as file:
        if len(grids) == 1:
            grids[0][1].save(file, format="PNG")
        else:
            file.write(png(labelled(grids)))
    said = "; ".join(f"{label}: {', '.join(map(str, folders))}" for label, folders in places.items())
    say(f"drew {config['num_images']} images of {said if len(grids) > 1 else next(iter(places.values()))[0]}: {out}")
    return out


def _places(given: Any) -> dict[str, list[Path]]:
    """Return label -> model folders, several for unmerged experts."""
    named = given if isinstance(given, dict) and given else {"": given}
    places = {}
    for label, value in named.items():
        paths = value if isinstance(value, list) else [value]
        if not paths or not all(isinstance(path, str) for path in paths):
            raise BadConfig(
                f"run must be a run or model folder, a list of experts, or {{label: ...}}; got {value!r}\n"
                "type: run=<dir>, or 'run={before: <dir>, merged: <dir>}'"
            )
        places[str(label)] = [weights_folder(locate(path)) for path in paths]
    return places
