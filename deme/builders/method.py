"""From the config of a train run to its method: weights, timesteps, balancing."""

from typing import Any

import torch
from torch import Tensor

from deme.diffusion.ranges import TimestepRange
from deme.diffusion.seeds import generator
from deme.diffusion.timesteps import TimestepSampler
from deme.diffusion.weighting import mass, timestep_weights
from deme.methods import Method
from deme.methods.balancing import Balancing
from deme.models.denoiser import DenoisingModel
from deme.runs.config import accepted_arguments, instantiate, instantiate_with
from deme.runs.inputs import found_weights
from deme.runs.run import Run
from deme.system import files
from deme.system.errors import BadConfig

NUM_DRAWS = 1 << 18  # draws of timesteps to see where they fall


def method_of(
    run: Run, model: DenoisingModel, ranges: list[TimestepRange], timestep_range: TimestepRange
) -> Method:
    """Return the run's method; write where its loss weights lie to weighting.json and the log."""
    config = run.config
    weights = _weights(config, model)
    timesteps = instantiate_with(
        config["timesteps"],
        timestep_range=timestep_range,
        num_timesteps=ranges[-1].high,
        ranges=ranges,
    )
    balancing = (
        instantiate_with(config["balancing"], num_tasks=len(ranges))
        if config["balancing"]
        else None
    )
    takes_gradients = (
        balancing is not None and type(balancing).wants_gradients is not Balancing.wants_gradients
    )
    if takes_gradients and str(config["compute"]["precision"]).startswith("16"):
        raise BadConfig(
            "task gradients are taken before the loss is scaled and underflow in float16\ntype: compute.precision=bf16-mixed"
        )
    if takes_gradients and config["compute"]["compile"]:
        raise BadConfig(
            "task gradients are taken of parts of a batch whose sizes change: a network would be compiled again and again, "
            "unchecked\ntype: compute.compile=false"
        )
    spec = _with_found_weights(run, ranges)
    if balancing is not None and "balancing" not in accepted_arguments(spec):
        raise BadConfig(
            f"{spec['_target_'].split('.')[-1]} has one task, nothing to balance\ntype: method=ant, or balancing=none"
        )
    method: Method = instantiate_with(
        spec,
        weights=weights,
        timesteps=timesteps,
        ranges=ranges,
        balancing=balancing,
        batch_size=config["batch_size"],
    )
    _log_mass(run, method, ranges, timesteps)
    return method


def _weights(config: dict[str, Any], model: DenoisingModel) -> Tensor:
    settings = config["loss_weight"]
    if not isinstance(settings, dict):
        raise BadConfig(
            f"loss_weight has two keys, got {settings!r}\ntype: loss_weight.max=<number> loss_weight.normalize=true"
        )
    weighting, schedule = instantiate(config["weighting"]), model.schedule
    try:
        return timestep_weights(
            weighting, schedule.snr, model.prediction_type, settings["max"], settings["normalize"]
        )
    except (TypeError, ValueError) as error:
        raise BadConfig(f"loss_weight: {error}") from error


def _with_found_weights(run: Run, ranges: list[TimestepRange]) -> dict[str, Any]:
    """The method's config, with the best weights of inputs.search if that is given."""
    spec: dict[str, Any] = run.config["method"]
    search = run.single_input("search")
    if search is None:
        return spec
    if spec.get("merge_weights") != "uniform":
        told = (
            f"method.merge_weights={spec['merge_weights']} is given, too"
            if "merge_weights" in spec
            else "no merge weights here"
        )
        raise BadConfig(f"inputs.search brings merge weights for method=reweighted; {told}")
    found = found_weights(search)
    weights = found["weights"]
    if found["weights_by_name"]:
        raise BadConfig(
            f"{search} found other weights for every tensor or block, which no timestep weight is equal to"
        )
    searched = files.read_json(search / "best.json").get("ranges")
    if searched is not None and searched != [[item.low, item.high] for item in ranges]:
        raise BadConfig(
            f"the experts of {search} have the ranges {searched}, this run {', '.join(map(str, ranges))}\n"
            "type: the ranges=... that the experts were trained with"
        )
    run.log(f"merge weights {weights}, found by {search}")
    return {**spec, "merge_weights": weights}


def _log_mass(
    run: Run, method: Method, ranges: list[TimestepRange], timesteps: TimestepSampler
) -> None:
    """Where the loss weight lies: for timesteps drawn uniformly, and as this run draws them."""
    if method.weights is None or not run.is_main_process:
        return
    boundaries = [0, *(item.high for item in ranges)]
    drawn = torch.bincount(timesteps(NUM_DRAWS, generator("mass")), minlength=boundaries[-1])
    shares, seen = mass(method.weights, boundaries), mass(method.weights * drawn, boundaries)
    names = [str(item) for item in ranges]
    files.write_json(
        run.path / "weighting.json",
        {
            "ranges": names,
            "mass": shares,
            "mass_as_drawn": seen,
            "mean": float(method.weights.mean()),
            "max": float(method.weights.max()),
        },
    )

    def told(values: list[float]) -> str:
        return ", ".join(
            f"{value:.2%} in {name}" for value, name in zip(values, names, strict=True)
        )

    run.log(f"loss weight of uniform timesteps: {told(shares)}")
    if max(abs(a - b) for a, b in zip(shares, seen, strict=True)) > 0.01:
        run.log(f"loss weight of timesteps as drawn: {told(seen)}")
