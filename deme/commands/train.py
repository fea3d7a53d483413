"""`deme train`: finetune or pretrain one model, or one expert."""

import contextlib
import gc
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from deme.commands.train_checks import (
    CHECKPOINT,
    check_before,
    check_passport,
    check_sharding,
    keeps_checkpoint,
    start_from_finished,
    teacher_folder,
    warn_if_teacher_is_raw,
)
from deme.commands.train_together import run_together
from deme.commands.training_memory import built_lines
from deme.runs import (
    Run,
    TrainSettings,
    base_hash,
    build,
    instantiate,
    is_open,
    sample_grid,
    takes_ema,
)
from deme.runs import partial as partial_of
from deme.runs.numbers import TRAINING_LOSS, main_numbers
from deme.system import cache_folder, files, logger, processes, signals
from deme.tracking import Mirror

if TYPE_CHECKING:
    from collections.abc import Callable

    from deme.builders import Compute
    from deme.data import EncodedDataset, Images
    from deme.diffusion import TimestepRange
    from deme.evaluation.validation import Validation
    from deme.training.distributed import ProcessGroup
    from deme.training.fit import Loop
    from deme.training.module import DiffusionModule


def run(config: dict[str, object]) -> Path:
    """Train unless it is done; return the run directory.

    Processes of one torchrun or srun train one run together.
    """
    settings = build(TrainSettings, config)
    if is_open(settings.model):
        from deme.builders import with_fitting_unet

        config = with_fitting_unet(config, settings)
        settings = build(TrainSettings, config)
    sends = processes.world().rank == 0
    mirror = Mirror.of(settings.logger, trains=True) if sends else Mirror()
    try:
        path = _run(config, settings, mirror)
        # until the run is done, whatever stops it resumes from here
        if not keeps_checkpoint(path):
            with contextlib.suppress(OSError):  # of a finished run that is read-only
                (path / CHECKPOINT).unlink()
        if (stop := signals.pending()) is not None:  # a signal during the last step
            signals.clear()
            raise stop
        mirror.publish(path)
        return path
    finally:
        gc.collect()  # Lightning's trainer and module refer to each other and hold the weights


def _run(config: dict[str, object], settings: TrainSettings, mirror: Mirror) -> Path:
    if processes.world().size == 1:
        run = Run.planned(config)
        check_before(run, settings)
        return run.execute(lambda run: _train(run, settings, mirror))

    from deme.builders import Compute
    from deme.training.distributed import init_distributed

    group = init_distributed(Compute.of(settings.compute).device)
    return run_together(group, config, lambda run: _train(run, settings, mirror, group))


@dataclass
class Training:
    """Everything that a run trains with."""

    compute: "Compute"
    images: "Images | EncodedDataset"
    module: "DiffusionModule"
    loop: "Loop"
    range: "TimestepRange"
    validation: "Validation | None"

    @property
    def measure(self) -> "Callable[[int], dict[str, float]] | None":
        """The validation of the module as a function of the number of steps taken, if any."""
        return partial(self.validation, self.module) if self.validation is not None else None


def _train(
    run: Run, settings: TrainSettings, mirror: Mirror, group: "ProcessGroup | None" = None
) -> None:
    """Prepare, train, and write the results. The first process of a group prepares first."""
    if run.is_main_process:
        start_from_finished(run, settings)
    training = _prepare(run, settings, group)
    if group is not None and run.is_main_process:
        group.all_gather(True)  # the others find in the cache what this one has prepared
    if run.is_main_process:
        mirror.start(run.path)
    try:
        _fit(run, settings, training, group, mirror)
    except BaseException:
        mirror.stop(failed=True)
        raise
    mirror.stop()


def _fit(
    run: Run,
    settings: TrainSettings,
    training: Training,
    group: "ProcessGroup | None",
    mirror: Mirror,
) -> None:
    """Train, and write the results."""
    from deme.evaluation.preview import preview
    from deme.training.fit import fit
    from deme.training.written_weights import write_snapshot, write_weights

    logger.info(
        "training %s: %s steps of %d images, timesteps t in %s%s",
        run.path.name,
        f"{settings.num_steps:,}",
        settings.batch_size * settings.accumulate,
        training.range,
        f" in {group.size} processes" if group is not None else "",
    )
    if settings.num_snapshots:
        models = "raw weights and two averages" if settings.tracks_profiles else "raw weights"
        logger.info("%d snapshots are kept, each with %s", settings.num_snapshots, models)
    about = _about(settings, training)
    write = partial(write_snapshot, training.module, folder=run.path, about=about)
    first_step = fit(
        training.module,
        training.images,
        training.loop,
        run.path,
        mirror.log,
        write,
        training.measure,
    )
    training.module.method.finish()
    training.module.method.teacher = None
    write_weights(training.module, settings.exported, run.path, about)
    weights = training.module.weights()
    if run.is_main_process:
        trained = training.range if settings.expert is not None else None
        model = training.module.model
        if training.module.is_sharded:
            model = instantiate(settings.model)
            if settings.projection.placement is not None:
                model.add_projections(settings.projection.placement)
        model.load_state_dict(weights, strict=model.adapter is None)
        grid = sample_grid(run.path)
        preview(grid, settings, model, training.images, trained, training.compute.device)
        cost = {"num_forward_passes": settings.num_forward_passes()}
        files.write_json(run.path / "cost.json", cost)
        resumed = f" (from step {first_step})" if first_step else ""
        loss = main_numbers(run.path, settings.stage).get(TRAINING_LOSS)
        end = f", {TRAINING_LOSS} {loss['value']:.4f} at the end" if loss is not None else ""
        logger.info("trained %s%s%s", run.path, resumed, end)


def _prepare(run: Run, settings: TrainSettings, group: "ProcessGroup | None") -> Training:
    """Build and check everything, cheap things first."""
    from deme.builders import (
        Compute,
        build_method,
        build_ranges,
        check_images,
        encode_images,
        load_data,
        load_distilled,
        range_of,
        teacher_loader,
        try_optimizer,
        write_loss_mass,
    )
    from deme.data import training_sampler
    from deme.evaluation.validation import Validation
    from deme.training.fit import Loop
    from deme.training.module import DiffusionModule

    compute, progress = Compute.of(settings.compute), settings.progress
    model = instantiate(settings.model)
    data = load_data(settings.data, settings.paths, model.image_shape)
    assert data is not None  # TrainSettings
    check_images(data, model)
    if "path" not in settings.model and run.is_main_process:
        for line in built_lines(settings, model, compute.device):
            logger.info(line)
    has_passport = "path" in settings.model
    if has_passport and settings.adapter is None:
        check_passport(run, settings, model, data, compute.device)
    warn_if_teacher_is_raw(run, settings)
    encoded = cache(  # can take hours
        lambda: encode_images(model, data.train, compute.device, cache_folder(settings.paths), data)
    )
    experts: list[Path] = []
    if given := run.weights_folders("experts"):
        experts, ranges = load_distilled(settings, model, given)
    else:
        ranges = build_ranges(settings, model, encoded, compute.device, run.path / "affinity.json")
    expert_range = range_of(settings.expert, ranges)
    if settings.projection.placement is not None:
        model.add_projections(settings.projection.placement)
    if settings.adapter is not None:
        model.add_adapter(instantiate(settings.adapter))
        logger.info("trained: %s", model.adapter_description)
        if has_passport:  # with an adapter that changes nothing yet, and its base in its precision
            check_passport(run, settings, model, data, compute.device)
    search = run.single_input("search")
    method = build_method(settings, model, ranges, expert_range, search, experts)
    load_teacher = teacher_loader(settings, model, teacher_folder(run))
    if run.is_main_process:
        write_loss_mass(method, ranges, run.path / "weighting.json")
    optimizer = partial_of(settings.optimizer)
    try_optimizer(optimizer)
    shards = settings.compute.strategy == "fsdp"
    if shards:
        check_sharding(settings, group is not None, method)
    images = encoded()
    validation = None
    if progress.validate.is_on and (run.is_main_process or shards):
        trained = expert_range if settings.expert is not None else None
        validation = Validation(
            run.path, settings, model, data, images, trained, compute.device, run.is_main_process
        )
    method.prepare(load_teacher, compute.device, compute.dtype)
    compute.prepare_for_training(model, images, settings.batch_size, settings.seed, method.teacher)
    if shards and group is not None:
        from deme.training.sharding import shard

        shard(model, compute.device, group.size)
    module = DiffusionModule(
        model,
        method,
        optimizer,
        instantiate(settings.learning_rate, num_steps=settings.num_steps),
        partial_of(settings.ema) if settings.ema is not None else None,
        seed=settings.random_seed,
        log_every=progress.log_every,
        group=group,
        training_sample=training_sampler(images),
    )
    loop = Loop(
        settings.num_steps,
        settings.batch_size,
        settings.random_seed,
        settings.accumulate,
        settings.gradient_clip,
        data.random_flip,
        compute.precision,
        compute.accelerator,
        device=int(compute.device.partition(":")[2] or 0),
        num_workers=progress.num_workers,
        checkpoint_every=progress.checkpoint_every,
        checkpoint_minutes=progress.checkpoint_minutes,
        log_every=progress.log_every,
        snapshots_every=settings.snapshots.every,
        validate_every=progress.validate.every,
        validate_minutes=progress.validate.minutes,
        keep_checkpoint=progress.keep_checkpoint,
    )
    return Training(compute, images, module, loop, expert_range, validation)


def _about(settings: TrainSettings, training: Training) -> dict[str, object]:
    """Return what deme.json says of all weights of the run."""
    trained, path = training.range, settings.model.get("path")
    size = training.module.model.sample_size
    return {
        "range": [trained.low, trained.high] if settings.expert is not None else None,
        "num_timesteps": training.module.model.schedule.num_timesteps,
        "num_images": len(training.images),
        "base": base_hash(settings.model, str(path)) if path is not None else None,
        **({"sample_size": list(size)} if size is not None else {}),
        **({"base_model": path} if settings.adapter else {}),
        **({"base_ema": True} if settings.adapter and takes_ema(settings.model) else {}),
    }
