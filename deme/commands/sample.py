"""`deme sample`: a grid of images of one or several models, all from the same noise."""

from pathlib import Path

from deme.commands.arguments import output_file
from deme.runs import (
    SampleSettings,
    build,
    check_options,
    instantiate,
    log_weights,
    tracking,
    weights_folder,
)
from deme.system import BadConfig, files, locate, print_result

DEFAULT_IMAGES = 64
MAX_PROMPTS = 100


def run(config: dict[str, object]) -> Path:
    """Generate the grid and return its path."""
    settings = build(SampleSettings, config)
    places, out = _places(settings.run), output_file(settings.out, ".png")

    import torch

    from deme.builders import (
        Compute,
        check_sampler,
        generate_images,
        load_experts,
        load_model,
        load_prompts,
    )
    from deme.report.figures import labelled, png
    from deme.report.prompt_grid import prompt_grid
    from deme.sampling.grid import image_grid

    check_options(settings)
    compute, scale = Compute.of(settings.compute), settings.guidance_scale
    images, shapes = {}, {}
    for label, folders in places.items():
        loaded = (
            load_model(folders[0], compute, scale)
            if len(folders) == 1
            else load_experts(folders, compute, scale)
        )
        shapes[label] = loaded.model.image_shape
        if len(set(shapes.values())) > 1:
            raise BadConfig(f"images of one grid need one shape, these models have {shapes}")
        check_sampler(settings.sampler, loaded.model)
        prompts = load_prompts(settings.prompts, loaded.model, None, settings.num_images)
        count = settings.num_images or (len(prompts) if prompts is not None else DEFAULT_IMAGES)
        if prompts is not None and count > MAX_PROMPTS:
            raise BadConfig(
                f"a labelled grid shows at most {MAX_PROMPTS} prompts, got {count}\n"
                f"type: num_images={MAX_PROMPTS} or fewer"
            )
        batches = generate_images(
            loaded.network,
            loaded.model,
            instantiate(settings.sampler),
            settings.sample_seed,
            range(count),
            settings.batch_size,
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
            given = prompts.prompts[:count]
            texts, phrases = [prompt.text for prompt in given], [prompt.phrase for prompt in given]
            file.write(png(prompt_grid(texts, shown, phrases)))
        elif len(images) == 1:
            image_grid(next(iter(images.values()))).save(file, format="PNG")
        else:
            file.write(
                png(labelled([(label, image_grid(pixels)) for label, pixels in images.items()]))
            )
    _track(settings, out)
    names = [
        f"{label}: {', '.join(map(str, folders))}" if len(images) > 1 else str(folders[0])
        for label, folders in places.items()
    ]
    print_result(f"wrote {out}: {count} images of {'; '.join(names)}")
    return out


def _track(settings: SampleSettings, picture: Path) -> None:
    """Show the picture in Weights & Biases, if asked for."""
    if settings.logger.mode == "disabled":
        return
    folder = Path(settings.paths.runs, "samples", f"sample-{files.sha256(picture)[:10]}")
    folder.mkdir(parents=True, exist_ok=True)
    about = {"picture": picture.name}
    with tracking.mirrored(folder, "samples", "sample", about, settings.logger) as tracker:
        tracking.conclude(tracker, {}, picture)


def _places(given: object) -> dict[str, list[Path]]:
    """Return label -> model folders, several for unmerged experts."""
    named = given if isinstance(given, dict) and given else {"": given}
    places = {}
    for label, value in named.items():
        paths = value if isinstance(value, list) else [value]
        if not paths or not all(isinstance(path, str) for path in paths):
            raise BadConfig(
                "run must be a run or model folder, a list of experts, or {label: ...}; "
                f"got {value!r}\ntype: run=<dir>, or 'run={{before: <dir>, merged: <dir>}}'"
            )
        found = [locate(str(path)) for path in paths]
        log_weights(f"run {label}".strip(), found)
        places[str(label)] = [weights_folder(path) for path in found]
    return places
