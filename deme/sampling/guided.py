"""Classifier-free guidance (Ho and Salimans 2022)."""

import torch
from torch import Tensor

from deme.diffusion import EMPTY_CONDITION, Condition, Network, bind_condition, joined, repeated


class ClassifierFreeGuidance:
    """f(x, empty) + scale (f(x, prompt) - f(x, empty)), both in one batch of twice the size.

    `empty` is the condition of an empty prompt, one row. `scale` is diffusers' `guidance_scale`; 1
    is no guidance.
    """

    def __init__(self, network: Network, scale: float, empty: Condition) -> None:
        self.network, self.scale, self.empty = network, scale, empty

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition = EMPTY_CONDITION) -> Tensor:
        both = joined([repeated(self.empty, len(x_t)), condition])
        network = bind_condition(self.network, both)
        unconditional, conditional = network(torch.cat([x_t, x_t]), torch.cat([t, t])).chunk(2)
        return unconditional + self.scale * (conditional - unconditional)
