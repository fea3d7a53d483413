"""Moving averages of the weights: exponential with the paper's warm-up, and power functions."""

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Protocol

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from deme.merging.power_profiles import TRACKED, decay, exponent
from deme.system import BadConfig, WorkFailed


class WeightAverage(Protocol):
    """An average of parameters over training steps."""

    @property
    def shadow_params(self) -> Sequence[Tensor]:
        """The averages, in the order of the parameters."""

    def step(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take the parameters after an optimizer step into the average."""

    def to(self, device: torch.device) -> None:
        """Move the average to a device."""

    def state_dict(self) -> dict[str, object]:
        """Return what a checkpoint holds of the average."""

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Go on from a checkpoint."""


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


class PowerAverages:
    """Power-function averages of several lengths, as EDM2 tracks them (docs/method.md#post-hoc).

    `shadow_params` are those of `length`; those of TRACKED are in every snapshot. Update t = 1, 2,
    ... has the decay (1 - 1/t)^(gamma + 1), computed in float64. Raises BadConfig for a length that
    no average has.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], length: float) -> None:
        try:
            self.gammas = {each: exponent(each) for each in (*TRACKED, length)}
        except ValueError as error:
            raise BadConfig(f"ema.length: {error}") from error
        kept = [parameter.detach() for parameter in parameters]
        self.length, self.num_updates = length, 0
        self.averages = {each: [value.clone() for value in kept] for each in self.gammas}

    @property
    def shadow_params(self) -> Sequence[Tensor]:
        """The average that is exported."""
        return self.averages[self.length]

    @property
    def cur_decay_value(self) -> float | None:
        """The decay of the last update of the exported average; None before the first update."""
        return decay(self.gammas[self.length], self.num_updates) if self.num_updates else None

    @torch.no_grad()
    def step(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take the parameters after an optimizer step into all averages."""
        self.num_updates += 1
        values: list[Tensor] = list(parameters)
        for length, average in self.averages.items():
            share = 1 - decay(self.gammas[length], self.num_updates)
            torch._foreach_lerp_(average, values, share)

    def to(self, device: torch.device) -> None:
        """Move all averages to a device."""
        self.averages = {
            length: [value.to(device) for value in average]
            for length, average in self.averages.items()
        }

    def state_dict(self) -> dict[str, object]:
        """Return the number of updates and the averages by length."""
        return {"num_updates": self.num_updates, "averages": self.averages}

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Go on from a checkpoint. Raises WorkFailed for one without these averages."""
        stored, updates = state_dict.get("averages"), state_dict.get("num_updates")
        if not isinstance(stored, dict) or stored.keys() != self.averages.keys():
            raise WorkFailed("the checkpoint has no power-function averages of these lengths")
        self.num_updates = int(str(updates))
        for length, average in self.averages.items():
            _copy(average, stored[length])


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def post_hoc_ema(parameters: Iterable[nn.Parameter], length: float = 0.1) -> PowerAverages:
    """Return EDM2's averages; that of `length`, a relative width, is what a run exports."""
    return PowerAverages(parameters, length)
