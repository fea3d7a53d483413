"""The loss weightings: the weight of each timestep under every scheme."""

from collections.abc import Callable, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from deme.analysis import Analysis
from deme.diffusion import uniform
from deme.diffusion.weighting import Infinite, Weighting, mass, prediction_weight, timestep_weights
from deme.models.denoiser import DenoisingModel
from deme.runs import instantiate, options
from deme.system import BadConfig, conf_dir, did_you_mean, read_yaml

KINDS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "flow"}


def weightings(
    model: Callable[[], DenoisingModel],
    show: str | Sequence[str] | None = None,
    max_weight: float | None = None,
    normalize: bool = False,
    num_ranges: int = 4,
) -> Analysis:
    """Draw the weight of the eps, x0 and v loss over t for the schedule of `model`.

    `show` names options of `weighting`, None all of them. The table gives, for the prediction type
    of the model, mean and largest weight and the share of the weight in `num_ranges` equal ranges.
    A weight that is infinite somewhere, which training refuses, is drawn where it is finite.
    """
    network = model()
    schedule, known = network.schedule, options("weighting")
    names = known if show is None else [show] if isinstance(show, str) else list(show)
    for name in names:
        if name not in known:
            near = did_you_mean(name, known)
            raise BadConfig(f"unknown weighting {name!r}; {near}allowed: {', '.join(known)}")
    schemes = {
        name: instantiate(read_yaml(conf_dir() / "weighting" / f"{name}.yaml", dict[str, object]))
        for name in names
    }

    def weight(scheme: Weighting, kind: str) -> Tensor:
        try:
            return timestep_weights(scheme, schedule.snr, kind, max_weight, normalize)
        except Infinite:
            return prediction_weight(scheme, schedule.snr, kind)

    figure = Figure(figsize=(13, 4.2))
    kinds = {kind: short for kind, short in KINDS.items() if schedule.supports(kind)}
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for panel, (kind, short) in zip(panels, kinds.items(), strict=True):
        for index, (name, scheme) in enumerate(schemes.items()):
            panel.plot(weight(scheme, kind), label=name, ls=("-", "--", ":")[index % 3], lw=1.8)
        panel.set_yscale("log")
        own = " (this model)" if kind == network.prediction_type else ""
        panel.set_title(f"weight of the {short} loss{own}")
        panel.set_xlabel("timestep t (0: least noise)")
    panels[0].legend(fontsize=8, frameon=False)
    figure.tight_layout()

    ranges = uniform(num_ranges, schedule.num_timesteps)
    table = [["weighting", "mean", "largest", *(f"share in {item}" for item in ranges)]]
    for name, scheme in schemes.items():
        values = weight(scheme, network.prediction_type)
        cells = ["infinite", "infinite", *["--"] * len(ranges)]
        if bool(torch.isfinite(values).all()):
            shares = mass(values, [0, *(item.high for item in ranges)])
            cells = [f"{values.mean():.4g}", f"{values.max():.4g}", *map("{:.2%}".format, shares)]
        table.append([name, *cells])
    return Analysis(figure, table)
