"""Classifier-free guidance (Ho and Salimans 2022): away from what the network answers without a prompt."""

import torch
from torch import Tensor

from deme.diffusion.conditioning import (
    EMPTY_CONDITION,
    Condition,
    Network,
    bind_condition,
    joined,
    repeated,
)


class ClassifierFreeGuidance:
    """f(x, nothing) + scale (f(x, prompt) - f(x, nothing)), both in one batch of twice the size.

    `nothing` is the condition of an empty prompt, one row. A scale of 1 is no guidance; diffusers' `guidance_scale`.
    """

    def __init__(self, network: Network, scale: float, nothing: Condition) -> None:
        self.network, self.scale, self.nothing = network, scale, nothing

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition = EMPTY_CONDITION) -> Tensor:
        both = joined([repeated(self.nothing, len(x_t)), condition])
        without, told = bind_condition(self.network, both)(
            torch.cat([x_t, x_t]), torch.cat([t, t])
        ).chunk(2)
        return without + self.scale * (told - without)
