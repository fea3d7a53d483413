"""The method of a training run: its loss weights, timesteps and balancing."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from deme.diffusion import TimestepRange, TimestepSampler, generator
from deme.diffusion.weighting import SMALLEST, mass, timestep_weights
from deme.methods import Method
from deme.methods.balancing import Balancing
from deme.models.denoiser import DenoisingModel
from deme.runs import (
    TrainSettings,
    accepted_arguments,
    found_weights,
    instantiate,
    instantiate_with,
)
from deme.system import BadConfig, files, logger

NUM_DRAWS = 1 << 18  # of timesteps, to estimate their distribution
PREDICTED = {"epsilon": "noise", "sample": "x_0", "v_prediction": "v", "flow_prediction": "flow"}


def build_method(
    settings: TrainSettings,
    model: DenoisingModel,
    ranges: list[TimestepRange],
    timestep_range: TimestepRange,
    search: Path | None,
    experts: Sequence[Path] = (),
) -> Method:
    """Return the method, with the merge weights of `search` if it is given. Raises BadConfig.

    `experts`: folders of the teachers of method=distill, one per range.
    """
    weighting = instantiate(settings.weighting)
    try:
        weights = timestep_weights(
            weighting,
            model.schedule.snr,
            model.prediction_type,
            settings.loss_weight.max,
            settings.loss_weight.normalize,
        )
    except ValueError as error:
        raise BadConfig(f"loss_weight: {error}") from error
    if float(weights[timestep_range.low : timestep_range.high].max()) < SMALLEST:
        raise BadConfig(
            f"loss_weight: the weight is below {SMALLEST:g} at every t in {timestep_range}: "
            "nothing would be trained\ntype: weighting=<another>, or expert=<another>"
        )
    logger.info("loss: %s", described(weights, model.prediction_type))
    timesteps: TimestepSampler = instantiate_with(
        settings.timesteps,
        timestep_range=timestep_range,
        num_timesteps=ranges[-1].high,
        ranges=ranges,
        density=instantiate(settings.timestep_density),
    )
    balancing = _build_balancing(settings, len(ranges))
    option = settings.method
    if search is not None:
        option = {**option, "merge_weights": _searched_weights(option, search, ranges)}
    method: Method = instantiate_with(
        option,
        weights=weights,
        timesteps=timesteps,
        ranges=ranges,
        balancing=balancing,
        batch_size=settings.batch_size,
        experts=experts,
    )
    if settings.has_consistency and settings.expert is None:
        logger.warning(
            "expert=null trains one model over all timesteps; an expert: expert=0, all of them: "
            "deme train -m ... expert='range(%d)'",
            len(ranges),
        )
    return method


def described(weights: Tensor, prediction_type: str) -> str:
    """Return what loss the weights [T] of a network's squared error are."""
    error = f"squared error of the predicted {PREDICTED[prediction_type]}"
    if bool((weights == 1).all()):
        return f"mean {error}, the same weight at every timestep"
    low, high = float(weights.min()), float(weights.max())
    text = (
        f"{error}, with weights from {low:.3g} to {high:.3g} depending on the timestep "
        "(weighting=constant_native has none)"
    )
    untrained = (weights < SMALLEST).nonzero().flatten().tolist()
    if untrained:
        first = untrained[0]
        text += f"; 0 at {len(untrained)} timesteps (first t = {first}), which are not trained"
    return text


def _build_balancing(settings: TrainSettings, num_tasks: int) -> Balancing | None:
    if settings.balancing is None:
        return None
    balancing: Balancing = instantiate_with(settings.balancing, num_tasks=num_tasks)
    if balancing.uses_gradients and settings.compute.precision.startswith("16"):
        raise BadConfig(
            "task gradients are taken before the loss is scaled and underflow in float16\n"
            "type: compute.precision=bf16-mixed"
        )
    if balancing.uses_gradients and settings.compute.compile:
        raise BadConfig(
            "task gradients use slices of the batch whose sizes change, and the network would be "
            "compiled again for each size without a check\ntype: compute.compile=false"
        )
    if "balancing" not in accepted_arguments(settings.method):
        raise BadConfig(
            "this method has one task, and balancing needs several\n"
            "type: method=ant, or balancing=none"
        )
    return balancing


def _searched_weights(
    option: Mapping[str, object], search: Path, ranges: list[TimestepRange]
) -> list[float]:
    """Return the best merge weights of inputs.search. Raises BadConfig if they do not fit."""
    given = option.get("merge_weights", "no such key")
    if given != "uniform":
        raise BadConfig(
            "inputs.search provides the merge weights of method=reweighted, whose "
            f"method.merge_weights must be uniform; got {given}"
        )
    found = found_weights(search)
    if found["weights_by_name"]:
        raise BadConfig(
            f"{search} found different merge weights for each tensor or block, "
            "which no loss weight per timestep is equal to"
        )
    searched = found.get("ranges")
    if searched is not None and searched != [[item.low, item.high] for item in ranges]:
        raise BadConfig(
            f"the experts of {search} have the ranges {searched}, "
            f"this run {', '.join(map(str, ranges))}\n"
            "type: the ranges=... that the experts were trained with"
        )
    weights: list[float] = found["weights"]
    logger.info("merge weights %s, found by %s", weights, search)
    return weights


def write_loss_mass(method: Method, ranges: list[TimestepRange], file: Path) -> None:
    """Write the share of the loss weight in each range to a file and the log.

    Once for uniform timesteps, and once for timesteps as this run draws them.
    """
    if method.weights is None or method.timesteps is None:
        return
    boundaries = [0, *(item.high for item in ranges)]
    draws = method.timesteps(NUM_DRAWS, generator("mass"))
    counts = torch.bincount(draws, minlength=boundaries[-1])
    shares = mass(method.weights, boundaries)
    drawn = mass(method.weights * counts, boundaries)
    names = [str(item) for item in ranges]
    files.write_json(
        file,
        {
            "ranges": names,
            "mass": shares,
            "mass_as_drawn": drawn,
            "mean": float(method.weights.mean()),
            "max": float(method.weights.max()),
        },
    )
    listed = [
        ", ".join(f"t in {name} {value:.1%}" for value, name in zip(each, names, strict=True))
        for each in (shares, drawn)
    ]
    if bool((method.weights != method.weights[0]).any()):
        logger.info("share of the loss weight, were timesteps drawn uniformly: %s", listed[0])
    if max(abs(a - b) for a, b in zip(shares, drawn, strict=True)) > 0.01:
        logger.info("share of the loss weight, as timesteps are drawn: %s", listed[1])
