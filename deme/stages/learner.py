"""From the config of a train run to its method: ranges, timesteps, weights, balancing."""

from typing import Any

import torch
from torch import Tensor

from deme import files
from deme.balancing import Balancing
from deme.config import make, provide
from deme.data import ImageData
from deme.errors import BadConfig
from deme.methods import Method
from deme.methods.affinity import gradient_affinity
from deme.models.unconditional import UnconditionalModel
from deme.ranges import TimestepRange
from deme.runs import Run
from deme.weighting import mass, timestep_weights


def ranges_of(run: Run, model: UnconditionalModel, data: ImageData, device: str) -> list[TimestepRange]:
    """Return the partition of [0, T) that the config names; measured gradient affinities are kept in affinity.json."""

    def affinity(num_bins: int, num_images: int, seed: int) -> Tensor:
        place = run.path / "affinity.json"
        if not place.exists():
            run.log(f"measuring gradient affinity: {num_bins} bins of timesteps, {num_images} images each")
            cosines = gradient_affinity(model.to(device), data.train, num_bins, num_images, seed)
            files.write_json(place, [[round(c, 6) for c in row] for row in cosines.tolist()])
        return torch.tensor(files.read_json(place), dtype=torch.float64)

    schedule = model.schedule
    ranges: list[TimestepRange] = provide(
        run.config["ranges"], num_timesteps=schedule.num_timesteps, schedule=schedule, affinity=affinity
    )
    return ranges


def range_of(config: dict[str, Any], ranges: list[TimestepRange]) -> TimestepRange:
    """Return the range that `expert` names, or all timesteps. Raises BadConfig."""
    if config["expert"] is None:
        if config["method"]["_target_"].endswith(".DeMe"):
            raise BadConfig(
                "method=deme trains one expert per run; say which\n"
                "type: expert=0, or all of them as jobs: deme train -m method=deme expert='range(4)'"
            )
        return TimestepRange(0, ranges[-1].high)
    if config["expert"] not in range(len(ranges)):
        raise BadConfig(f"expert={config['expert']}: with {len(ranges)} ranges it must lie in 0..{len(ranges) - 1}")
    return ranges[config["expert"]]


def method_of(
    run: Run, model: UnconditionalModel, ranges: list[TimestepRange], timestep_range: TimestepRange
) -> Method:
    """Return the run's method; write where its loss weights lie to weighting.json and the log."""
    config = run.config
    weights = _weights(config, model)
    timesteps = provide(
        config["timesteps"], timestep_range=timestep_range, num_timesteps=ranges[-1].high, ranges=ranges
    )
    balancing = provide(config["balancing"], num_tasks=len(ranges)) if config["balancing"] else None
    takes_gradients = balancing is not None and type(balancing).wants_gradients is not Balancing.wants_gradients
    if takes_gradients and str(config["compute"]["precision"]).startswith("16"):
        raise BadConfig(
            "task gradients are taken before the loss is scaled and underflow in float16\ntype: compute.precision=bf16-mixed"
        )
    method: Method = provide(
        _with_found_weights(run),
        weights=weights,
        timesteps=timesteps,
        ranges=ranges,
        balancing=balancing,
        batch_size=config["batch_size"],
    )
    if balancing is not None and method.own is not balancing:
        raise BadConfig(
            f"{type(method).__name__} has one task, nothing to balance\ntype: method=ant, or balancing=none"
        )
    _log_mass(run, method, ranges)
    return method


def _weights(config: dict[str, Any], model: UnconditionalModel) -> Tensor:
    settings = config["loss_weight"]
    cap, normalize = settings["max"], settings["normalize"]
    if cap is not None and not isinstance(cap, (int, float)):
        raise BadConfig(f"loss_weight.max must be a number, got {cap!r}")
    if not isinstance(normalize, bool):
        raise BadConfig(f"loss_weight.normalize must be true or false, got {normalize!r}")
    try:
        return timestep_weights(make(config["weighting"]), model.schedule.snr, model.prediction_type, cap, normalize)
    except (TypeError, ValueError) as error:
        raise BadConfig(str(error)) from error


def _with_found_weights(run: Run) -> dict[str, Any]:
    """The method's config, with the best weights of inputs.search if that is given."""
    spec: dict[str, Any] = run.config["method"]
    search = run.one("search")
    if search is None:
        return spec
    if "merge_weights" not in spec:
        raise BadConfig("inputs.search goes with method=reweighted, which takes merge weights")
    return {**spec, "merge_weights": files.read_json(search / "best.json")["weights"]}


def _log_mass(run: Run, method: Method, ranges: list[TimestepRange]) -> None:
    if method.weights is None:
        return
    shares = mass(method.weights, [0, *(item.high for item in ranges)])
    names = [str(item) for item in ranges]
    files.write_json(
        run.path / "weighting.json",
        {"ranges": names, "mass": shares, "mean": float(method.weights.mean()), "max": float(method.weights.max())},
    )
    parts = ", ".join(f"{share:.2%} in {name}" for name, share in zip(names, shares, strict=True))
    run.log(f"loss weight of uniform timesteps: {parts}")
