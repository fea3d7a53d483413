"""`deme train`: finetune or pretrain one model, or one expert."""

import gc
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from deme.runs.inputs import content_hash
from deme.runs.run import Run, say
from deme.runs.settings.base import build
from deme.runs.settings.commands import TrainSettings
from deme.runs.settings.groups import ComputeSettings, PathsSettings
from deme.system import files, processes, signals
from deme.system.errors import BadConfig, WorkFailed
from deme.system.paths import cache_folder


def run(config: dict[str, Any]) -> Path:
    """Train unless it is done; return the run directory. Processes of one torchrun or srun train one run together."""
    try:
        path = _run(config)
        if (stop := signals.pending()) is not None:  # it came in the last step
            signals.clear()
            raise stop
        return path
    finally:
        gc.collect()  # Lightning's trainer and module refer to each other: a sweep would hold every job's weights


def _run(config: dict[str, Any]) -> Path:
    if processes.world_size() == 1:
        path = Run.planned(config).execute(_train)
        _forget_checkpoint(path)
        return path

    from deme.builders.compute import Compute
    from deme.training.distributed import join

    team = join(Compute.of(build(ComputeSettings, config["compute"])).device)
    with team.job():
        run = Run.planned(config)
        if team.rank == 0:
            _forget_checkpoint(run.execute(lambda run: _train(run, team)))
            team.tell("go", train=False)
            team.tell("end")
        else:
            word = team.hear("go")
            if word["train"] and word["identity"] != run.identity:
                raise WorkFailed(
                    f"process 0 trains another run ({word['identity'][:10]}); give all processes the same words"
                )
            if word["train"]:
                _train(replace(run, is_main_process=False), team)
            team.hear("end")
        return run.path


def _forget_checkpoint(path: Path) -> None:
    """Once the run is done; until then whatever stops it goes on from there."""
    (path / "checkpoints" / "last.ckpt").unlink(missing_ok=True)


@dataclass
class Training:
    """Everything that a run trains with."""

    compute: Any
    images: Any
    model: Any
    method: Any
    module: Any
    loop: Any
    range: Any


def _train(run: Run, team: Any = None) -> None:
    """Prepare, train, and write the results. Of a team the first process prepares first: it downloads and measures."""
    from deme.training.fit import fit

    training = _prepare(run, team)
    if team is not None and run.is_main_process:
        team.tell("go", train=True, identity=run.identity)
    config = run.config
    tracker, loggers = None, []
    if config["logger"]["mode"] != "disabled" and run.is_main_process:
        from deme.runs import tracking
        from deme.training.fit import training_logger

        tracker = tracking.start(
            run.path, config["suite"], "train", config["cell"], **config["logger"]
        )
        loggers = [training_logger(tracker)]
    if run.is_main_process:
        together = f" in {team.size} processes" if team is not None else ""
        images = (
            f"{config['num_steps']} steps of {config['batch_size'] * config['accumulate']} images"
        )
        say(f"training {run.path.name}: t in {training.range}, {images}{together}")
    first = fit(training.module, training.images, training.loop, run.path, run.path.name, loggers)
    training.method.finish()
    training.method.teacher = None
    if run.is_main_process:
        _finish(run, training, tracker, first)


def _prepare(run: Run, team: Any) -> Training:
    from deme.builders.compute import Compute, try_optimizer
    from deme.builders.data import check_images, encode_images, load_data
    from deme.builders.method import method_of
    from deme.builders.ranges import range_of, ranges_of
    from deme.data import training_sampler
    from deme.runs.config import instantiate, partial
    from deme.training.fit import Loop
    from deme.training.module import DiffusionModule

    config = run.config
    compute, paths = (
        Compute.of(build(ComputeSettings, config["compute"])),
        build(PathsSettings, config["paths"]),
    )
    model = instantiate(config["model"])
    data = load_data(config["data"], paths, model.image_shape)
    if data is None:
        raise BadConfig("training needs images, and data=none\ntype: data=<option>")
    check_images(data, model)
    if "path" in config["model"]:
        _check_passport(run, model, data, compute.device)
    encoded = cache(
        lambda: encode_images(model, data.train, compute.device, cache_folder(paths), data)
    )  # can take hours
    ranges = ranges_of(run, model, encoded, compute.device)
    expert_range = range_of(config, ranges)
    if config["projection"]["placement"]:
        model.add_projections(config["projection"]["placement"])
    method = method_of(run, model, ranges, expert_range)
    optimizer = partial(config["optimizer"])
    try_optimizer(optimizer)
    if team is not None and method.whole_batch:
        raise BadConfig(
            f"{type(method).__name__} balances tasks over the whole batch, which several processes would each see a part of\n"
            "type: the same command without torchrun or srun"
        )
    images = encoded()
    method.prepare(lambda: instantiate(config["model"]), compute.device, compute.dtype)
    compute.prepare_for_training(
        model, images, config["batch_size"], config["seed"], method.teacher
    )
    progress = config["progress"]
    module = DiffusionModule(
        model,
        method,
        optimizer,
        instantiate(config["learning_rate"], num_steps=config["num_steps"]),
        partial(config["ema"]) if config["ema"] else None,
        seed=config["seed"],
        log_every=progress["log_every"],
        team=team,
        start=training_sampler(images),
    )
    loop = Loop(
        config["num_steps"],
        config["batch_size"],
        config["seed"],
        config["accumulate"],
        config["gradient_clip"],
        data.random_flip,
        compute.precision,
        compute.accelerator,
        device=int(compute.device.partition(":")[2] or 0),
        num_workers=progress["num_workers"],
        checkpoint_every=progress["checkpoint_every"],
        log_every=progress["log_every"],
    )
    return Training(compute, images, model, method, module, loop, expert_range)


def _finish(run: Run, training: Training, tracker: Any, first: int) -> None:
    from deme.builders.ranges import affinity_forward_passes

    config, module, model = run.config, training.module, training.model
    num_timesteps, expert_range = model.schedule.num_timesteps, training.range
    about = {
        "range": [expert_range.low, expert_range.high] if config["expert"] is not None else None,
        "num_timesteps": num_timesteps,
        "num_images": len(training.images),
        "base": content_hash(config["model"]["path"]) if "path" in config["model"] else None,
        "ema": module.ema is not None,
    }
    kind = "ema" if module.ema is not None else "raw"
    model.cpu().save(run.path / "weights" / kind, module.weights(), about, links=True)
    grid = _preview(run, training)
    if tracker is not None:
        from deme.runs import tracking

        tracking.finish(tracker, {}, grid)
    forwards = (
        config["batch_size"]
        * config["accumulate"]
        * config["num_steps"]
        * training.method.num_forward_passes_per_step
    )
    files.write_json(
        run.path / "cost.json", {"num_forward_passes": forwards + affinity_forward_passes(run)}
    )
    run.log(f"trained {run.path} (from step {first})")


def _check_passport(run: Run, model: Any, data: Any, device: str) -> None:
    """Store what the weights are and fit; refuse to train what its config describes wrongly."""
    from deme.evaluation.passport import format_passport, load_passport, refuse_contradicted

    settings = build(TrainSettings, run.config)
    passport = load_passport(
        str(settings.model["path"]),
        settings.data or {},
        settings.passport.num_images,
        model,
        data,
        device,
        cache_folder(settings.paths),
    )
    if run.is_main_process:
        files.write_json(run.path / "passport.json", passport)
    for line in format_passport(passport):
        run.log(line)
    if run.config["passport"]["contradicted"] == "refuse":
        refuse_contradicted(passport)


def _preview(run: Run, training: Training) -> Path:
    """Draw a sample grid, of training captions if there are any; an expert answers in its range, the pretrained model elsewhere."""
    import torch

    from deme.builders.models import guided
    from deme.builders.prompts import generate_images
    from deme.data import Captioned
    from deme.data.prompts import held_out_prompts
    from deme.diffusion.ranges import TimestepRange
    from deme.runs.config import instantiate
    from deme.sampling.ddim import DDIM
    from deme.sampling.grid import image_grid
    from deme.sampling.routed import RoutedModel

    preview, model, device = (
        run.config["progress"]["preview"],
        training.model,
        training.compute.device,
    )
    expert_range, num_timesteps = training.range, training.model.schedule.num_timesteps
    model.load_state_dict(training.module.weights())
    model.to(device).eval()
    network = model.forward  # not what is compiled for training: the sample has another shape
    if run.config["expert"] is not None:
        low, high = expert_range.low, expert_range.high
        ranges = [
            TimestepRange(a, b) for a, b in ((0, low), (low, high), (high, num_timesteps)) if a < b
        ]
        base = instantiate(run.config["model"]).to(device)
        network = RoutedModel(
            [model.forward if r.low == low else base for r in ranges], ranges, num_timesteps
        )
    sampler, count, prompts = (
        DDIM(min(preview["num_inference_steps"], num_timesteps)),
        preview["num_images"],
        None,
    )
    if model.image_shape != model.noise_shape and isinstance(training.images, Captioned):
        sampler.clip_sample = False  # latents
        prompts = held_out_prompts(training.images)
        network, count = guided(network, model, preview["guidance_scale"]), min(count, len(prompts))
    batch = (
        count if prompts is None else max(1, min(count, run.config["batch_size"] // 2))
    )  # guidance takes twice
    batches = generate_images(
        network, model, sampler, preview["seed"], range(count), batch, device, prompts
    )
    path = run.path / "samples" / "grid.png"
    with files.atomic(path) as file:
        image_grid(torch.cat(list(batches))).save(file, format="PNG")
    return path
