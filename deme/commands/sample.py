"""`deme sample`: a grid of images of one or several models, to look at; all start from the same noise."""

from pathlib import Path
from typing import Any

from deme.runs.checks import check_scale, check_values
from deme.runs.inputs import weights_folder
from deme.runs.run import say
from deme.runs.settings.base import build
from deme.runs.settings.groups import ComputeSettings
from deme.system import files
from deme.system.errors import BadConfig
from deme.system.paths import locate

DEFAULT_IMAGES = 64
MOST_PROMPTS = 100


def run(config: dict[str, Any]) -> Path:
    """Draw the grid and return its path."""
    places = _places(config["run"])
    check_values(config if config["num_images"] is not None else {**config, "num_images": 1})
    check_scale(config)
    out = Path(str(config["out"]))
    if out.suffix.lower() != ".png":
        raise BadConfig(f"out must name a .png file, got {config['out']}")

    import torch

    from deme.builders.compute import Compute
    from deme.builders.models import load_experts, load_model
    from deme.builders.prompts import check_sampler, generate_images, load_prompts
    from deme.merging.plan import order_experts
    from deme.report.figures import labelled, png
    from deme.report.prompt_grid import prompt_grid
    from deme.runs.config import instantiate
    from deme.sampling.grid import image_grid

    compute, scale = Compute.of(build(ComputeSettings, config["compute"])), config["guidance_scale"]
    images, shapes, prompts = {}, {}, None
    for label, folders in places.items():
        loaded = (
            load_model(folders[0], compute, scale)
            if len(folders) == 1
            else load_experts(order_experts(folders), compute, scale)
        )
        shapes[label] = loaded.model.image_shape
        if len(set(shapes.values())) > 1:
            raise BadConfig(
                f"these models do not start from the same noise, their images differ in shape: {shapes}"
            )
        check_sampler(config["sampler"], loaded.model)
        prompts = load_prompts(config["prompts"], loaded.model, None, config["num_images"])
        count = config["num_images"] or (len(prompts) if prompts is not None else DEFAULT_IMAGES)
        if prompts is not None and count > MOST_PROMPTS:
            raise BadConfig(
                f"a labelled grid has room for {MOST_PROMPTS} prompts, {count} were asked for\ntype: num_images={MOST_PROMPTS} or fewer"
            )
        batches = generate_images(
            loaded.network,
            loaded.model,
            instantiate(config["sampler"]),
            config["sample_seed"],
            range(count),
            config["batch_size"],
            compute.device,
            prompts,
        )
        images[label] = torch.cat(list(batches))
    with files.atomic(out) as file:
        if prompts is not None:
            shown = {
                label or "images": pixels.permute(0, 2, 3, 1).numpy()
                for label, pixels in images.items()
            }
            texts, phrases = zip(
                *((prompts[i].text, prompts[i].phrase) for i in range(count)), strict=True
            )
            file.write(png(prompt_grid(texts, shown, phrases)))
        elif len(images) == 1:
            image_grid(next(iter(images.values()))).save(file, format="PNG")
        else:
            file.write(
                png(labelled([(label, image_grid(pixels)) for label, pixels in images.items()]))
            )
    _log(config, out)
    said = "; ".join(
        f"{label}: {', '.join(map(str, folders))}" for label, folders in places.items()
    )
    say(
        f"drew {count} images of {said if len(images) > 1 else next(iter(places.values()))[0]}: {out}"
    )
    return out


def _log(config: dict[str, Any], picture: Path) -> None:
    """Show the picture in wandb, if it is wanted."""
    if config["logger"]["mode"] == "disabled":
        return
    from deme.runs import tracking

    folder = Path(config["paths"]["runs"], "samples", f"sample-{files.sha256(picture)[:10]}")
    folder.mkdir(parents=True, exist_ok=True)
    tracker = tracking.start(
        folder, "samples", "sample", {"picture": picture.name}, **config["logger"]
    )
    tracking.finish(tracker, {}, picture)


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
