"""`deme sample`: draw a grid of images of one or several models, all from the same noise."""

import time
from pathlib import Path

from deme.commands.arguments import check_places, output_file
from deme.runs import (
    SampleSettings,
    build,
    check_options,
    compose_stage,
    instantiate,
    log_weights,
    options,
    weights_folder,
)
from deme.system import BadConfig, exists, files, locate, print_result
from deme.tracking import FOLDER, Mirror, Record, settings_of, tracker_id

DEFAULT_IMAGES = 64
MAX_PROMPTS = 100


def run(config: dict[str, object]) -> Path:
    """Generate the grid and return its path."""
    settings = build(SampleSettings, config)
    mirror = Mirror.of(settings.logger)
    places, out = _places(settings.run), output_file(settings.out, ".png")
    if settings.prompts is not None and settings.num_images is not None:
        _check_count(settings.num_images)
    check_places(settings.prompts)

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
    from deme.report.prompt_grid import prompt_grid, side_by_side
    from deme.sampling.grid import image_grid

    check_options(settings)
    compute, scale = Compute.of(settings.compute), settings.guidance_scale
    images, shapes = {}, {}
    for label, folders in places.items():
        loaded = (
            load_model(folders[0], compute, scale, size=settings.size, size_key="size")
            if len(folders) == 1
            else load_experts(folders, compute, scale, settings.size)
        )
        shapes[label] = loaded.model.image_shape
        if len(set(shapes.values())) > 1:
            sizes = ", ".join(f"{name} {' x '.join(map(str, s))}" for name, s in shapes.items())
            raise BadConfig(
                f"images of one grid need one shape; channels x height x width: {sizes}\n"
                "type: size=<pixels per side>, if the models can have this size; or one command "
                "for each size"
            )
        check_sampler(settings.sampler, loaded.model)
        prompts = load_prompts(settings.prompts, loaded.model, None, settings.num_images)
        count = settings.num_images or (len(prompts) if prompts is not None else DEFAULT_IMAGES)
        if prompts is not None:
            _check_count(count)
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
            per = int((settings.prompts or {}).get("per_prompt") or 1)
            per = per if count % per == 0 else 1  # images of one prompt, next to each other
            shown = {
                label or "images": side_by_side(pixels.permute(0, 2, 3, 1).numpy(), per)
                for label, pixels in images.items()
            }
            given = prompts.prompts[:count:per]
            texts, phrases = [prompt.text for prompt in given], [prompt.phrase for prompt in given]
            file.write(png(prompt_grid(texts, shown, phrases)))
        elif len(images) == 1:
            image_grid(next(iter(images.values()))).save(file, format="PNG")
        else:
            file.write(
                png(labelled([(label, image_grid(pixels)) for label, pixels in images.items()]))
            )
    mirror.send(_record(settings, config, out))
    names = [
        f"{label}: {', '.join(map(str, folders))}"
        if len(images) > 1
        else f"routed {', '.join(map(str, folders))}"
        if len(folders) > 1
        else str(folders[0])
        for label, folders in places.items()
    ]
    print_result(f"wrote {out}: {count} images of {'; '.join(names)}")
    return out


def _record(settings: SampleSettings, config: dict[str, object], picture: Path) -> Record:
    """Return the tracker record of a picture: its settings, and an id computed from its content."""
    name = f"sample-{files.sha256(picture)[:10]}"
    now = time.time()
    return Record(
        id=tracker_id("samples", "sample", name),
        name=name,
        suite="samples",
        stage="sample",
        state="done",
        home=Path(settings.paths.runs, "samples", FOLDER),
        began=now,
        ended=now,
        config=settings_of(config),
        images={"samples": picture},
    )


def _check_count(count: int) -> None:
    if count > MAX_PROMPTS:
        raise BadConfig(
            f"a labelled grid shows at most {MAX_PROMPTS} prompts, got {count}\n"
            f"type: num_images={MAX_PROMPTS} or fewer"
        )


def _of_option(name: str) -> str:
    """Return the path of a model option such as digits_base; another name is returned as it is."""
    if exists(name) or name not in options("model"):
        return name
    path = compose_stage("train", [f"model={name}"])["model"].get("path")
    return path if isinstance(path, str) else name


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
        found = [locate(_of_option(str(path))) for path in paths]
        log_weights(f"run {label}".strip(), found)
        places[str(label)] = [weights_folder(path) for path in found]
    return places
