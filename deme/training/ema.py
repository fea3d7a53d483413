"""The exponential moving average of the weights, by diffusers, with the paper's warm-up."""

from collections.abc import Iterable
from math import inf

from diffusers.training_utils import EMAModel
from torch import nn

from deme.system import BadConfig


def warmup_ema(
    parameters: Iterable[nn.Parameter],
    max_decay: float = 0.9999,
    inv_gamma: float = 1.0,
    power: float = 0.75,
) -> EMAModel:
    """Return an average whose update k = 0, 1, ... has a decay with a warm-up.

    The decay is min(max_decay, 1 - (1 + k / inv_gamma)^-power), 0 at k = 0; diffusers counts
    updates from 1 and subtracts one (docs/method.md#weight-average). Raises BadConfig.
    """
    for name, value, most in (
        ("max_decay", max_decay, 1.0),
        ("inv_gamma", inv_gamma, inf),
        ("power", power, inf),
    ):
        if type(value) not in (int, float) or not 0 < value <= most:
            raise BadConfig(
                f"ema.{name} must be a number above 0"
                f"{f' and at most {most:g}' if most < inf else ''}, got {value!r}"
            )
    return EMAModel(
        parameters,
        decay=max_decay,
        use_ema_warmup=True,
        inv_gamma=inv_gamma,
        power=power,
        foreach=True,
    )
