"""`deme train`: finetune or pretrain one model, or one expert."""

from pathlib import Path
from typing import Any

from deme import files
from deme.errors import BadConfig
from deme.inputs import content_hash
from deme.runs import Run, say


def run(config: dict[str, Any]) -> Path:
    """Train unless it is done; return the run directory."""
    return Run.planned(config).execute(_train)


def _train(run: Run) -> None:
    from deme.config import bind, make
    from deme.stages.common import Compute, check_images, data_of, try_optimizer
    from deme.stages.learner import method_of
    from deme.stages.partition import affinity_forwards, range_of, ranges_of
    from deme.training.fit import Loop, fit
    from deme.training.module import DiffusionModule

    config = run.config
    compute = Compute.of(config)
    if compute.compile:
        raise BadConfig(
            "compute.compile=true is for sampling; training is not compiled yet\ntype: compute.compile=false"
        )
    model = make(config["model"])
    data = data_of(config, model.image_shape, run.log)
    check_images(data, model)
    if "path" in config["model"]:
        _check_passport(run, model, data, compute.device)
    num_timesteps = model.schedule.num_timesteps
    ranges = ranges_of(run, model, data, compute.device)
    expert_range = range_of(config, ranges)
    if config["projection"]["placement"]:
        model.add_projections(config["projection"]["placement"])
    method = method_of(run, model, ranges, expert_range)
    method.prepare(lambda: make(config["model"]), compute.device)
    optimizer = bind(config["optimizer"])
    try_optimizer(optimizer)
    learning_rate = make(config["learning_rate"], num_steps=config["num_steps"])
    progress = config["progress"]
    module = DiffusionModule(
        model,
        method,
        optimizer,
        learning_rate,
        bind(config["ema"]) if config["ema"] else None,
        seed=config["seed"],
        random_flip=data.random_flip,
        log_every=progress["log_every"],
    )
    loop = Loop(
        config["num_steps"],
        config["batch_size"],
        config["seed"],
        config["accumulate"],
        config["gradient_clip"],
        compute.precision,
        compute.accelerator,
        num_workers=progress["num_workers"],
        checkpoint_every=progress["checkpoint_every"],
        log_every=progress["log_every"],
    )
    tracker, loggers = None, []
    if config["logger"]["mode"] != "disabled":
        from deme.training import wandb

        tracker = wandb.start(run.path, config["suite"], "train", config["cell"], **config["logger"])
        loggers = [wandb.training_logger(tracker)]
    images_per_step = config["batch_size"] * config["accumulate"]
    say(f"training {run.path.name}: t in {expert_range}, {config['num_steps']} steps of {images_per_step} images")
    first = fit(module, data.train, loop, run.path, run.path.name, loggers)
    method.finish()
    about = {
        "range": [expert_range.low, expert_range.high] if config["expert"] is not None else None,
        "num_timesteps": num_timesteps,
        "num_images": len(data.train),
        "base": content_hash(config["model"]["path"]) if "path" in config["model"] else None,
        "ema": module.ema is not None,
    }
    model.cpu().save(run.path / "weights" / ("ema" if module.ema is not None else "raw"), module.weights(), about)
    grid = _preview(run, model, module, num_timesteps, expert_range, compute.device)
    if tracker is not None:
        from deme.training import wandb

        wandb.finish(tracker, {}, grid)
    images = images_per_step * config["num_steps"]
    files.write_json(run.path / "cost.json", {"forwards": images * method.forwards_per_step + affinity_forwards(run)})
    (run.path / "checkpoints" / "last.ckpt").unlink(missing_ok=True)
    run.log(f"trained {run.path} (from step {first})")


def _check_passport(run: Run, model: Any, data: Any, device: str) -> None:
    """Store what the weights are and fit; refuse to train what its config describes wrongly."""
    from deme.stages.passport import passport_of, refuse_contradicted, told

    passport = passport_of(run.config, model, data, device)
    files.write_json(run.path / "passport.json", passport)
    for line in told(passport):
        run.log(line)
    refuse_contradicted(passport)


def _preview(run: Run, model: Any, module: Any, num_timesteps: int, expert_range: Any, device: str) -> Path:
    """Draw a sample grid; an expert answers in its range and the pretrained model elsewhere."""
    from deme.config import make
    from deme.ranges import TimestepRange
    from deme.sampling.ddim import DDIM
    from deme.sampling.generate import generate
    from deme.sampling.grid import image_grid
    from deme.sampling.routed import RoutedModel

    preview = run.config["progress"]["preview"]
    model.load_state_dict(module.weights())
    model.to(device).eval()
    network = model
    if run.config["expert"] is not None:
        low, high = expert_range.low, expert_range.high
        ranges = [TimestepRange(a, b) for a, b in ((0, low), (low, high), (high, num_timesteps)) if a < b]
        base = make(run.config["model"]).to(device)
        network = RoutedModel([model if r.low == low else base for r in ranges], ranges, num_timesteps)
    sampler = DDIM(min(preview["num_inference_steps"], num_timesteps))
    batches = generate(
        network,
        model.scheduler_config,
        model.image_shape,
        sampler,
        preview["seed"],
        range(preview["num_images"]),
        preview["num_images"],
        device,
    )
    path = run.path / "samples" / "grid.png"
    with files.atomic(path) as file:
        image_grid(next(batches)).save(file, format="PNG")
    return path
