"""The loss weightings: what each timestep counts under every scheme, and where the weight lies."""

from collections.abc import Callable, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from deme.analysis import Analysis
from deme.config import make, options
from deme.errors import BadConfig, did_you_mean
from deme.inputs import load_yaml
from deme.models.unconditional import UnconditionalModel
from deme.paths import conf_dir
from deme.ranges import uniform
from deme.weighting import Weighting, mass, prediction_weight

KINDS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


def weightings(
    model: Callable[[], UnconditionalModel],
    show: Sequence[str] | None = None,
    max_weight: float | None = None,
    normalize: bool = False,
    num_ranges: int = 4,
) -> Analysis:
    """Draw the weight of the eps, x0 and v loss over t for the schedule of `model`; `show` names options of `weighting`.

    The table gives, for what the model predicts, mean and largest weight and the share of the weight in equal ranges.
    """
    network = model()
    schedule = network.schedule
    known = options("weighting")
    names = list(known if show is None else show)
    for name in names:
        if name not in known:
            raise BadConfig(f"unknown weighting {name!r}; {did_you_mean(name, known)}allowed: {', '.join(known)}")
    schemes = {name: make(load_yaml(conf_dir() / "weighting" / f"{name}.yaml")) for name in names}
    figure = Figure(figsize=(13, 4.2))
    panels = figure.subplots(1, len(KINDS), squeeze=False)[0]
    for panel, (kind, short) in zip(panels, KINDS.items(), strict=True):
        for index, (name, scheme) in enumerate(schemes.items()):
            weight = _weight(scheme, schedule.snr, kind, max_weight, normalize)
            panel.plot(weight, label=name, ls=("-", "--", ":")[index % 3], lw=1.8)
        panel.set_yscale("log")
        panel.set_title(f"weight of the {short} loss" + (" (this model)" if kind == network.prediction_type else ""))
        panel.set_xlabel("timestep t (0: least noise)")
    panels[0].legend(fontsize=8, frameon=False)
    figure.tight_layout()

    ranges = uniform(num_ranges, schedule.num_timesteps)
    table = [["weighting", "mean", "largest", *(f"share in {item}" for item in ranges)]]
    for name, scheme in schemes.items():
        weight = _weight(scheme, schedule.snr, network.prediction_type, max_weight, normalize)
        shares = mass(weight, [0, *(item.high for item in ranges)])
        table.append([name, f"{weight.mean():.4g}", f"{weight.max():.4g}", *(f"{share:.2%}" for share in shares)])
    return Analysis(figure, table)


def _weight(scheme: Weighting, snr: Tensor, kind: str, max_weight: float | None, normalize: bool) -> Tensor:
    """As `timestep_weights`, but a weight that cannot be trained with is drawn: where it is infinite the curve ends."""
    weight = prediction_weight(scheme, snr, kind)
    if max_weight is not None:
        weight = weight.clamp_max(max_weight)
    return weight / weight.mean() if normalize else weight
