"""The average's decay sequence and value against the formula."""

import pytest
import torch
from torch import nn

from deme.training.ema import warmup_ema


def test_decay_sequence_is_the_papers_warmup():
    ema = warmup_ema([nn.Parameter(torch.zeros(1))])
    decays = [ema.get_decay(step) for step in range(1, 2001)]
    assert decays == pytest.approx([1 - (1 + k) ** -0.75 for k in range(2000)], abs=1e-12)
    assert ema.get_decay(20_000) == pytest.approx(0.99941, abs=5e-6)
    assert ema.get_decay(300_000) == 0.9999


def test_average_equals_the_recursion_in_float64():
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    ema = warmup_ema([parameter], max_decay=0.9)
    expected = torch.zeros(3, dtype=torch.float64)
    for k in range(50):
        with torch.no_grad():
            parameter.add_(torch.tensor([1.0, -2.0, k]))
        ema.step([parameter])
        decay = min(0.9, 1 - (1 + k) ** -0.75)
        expected = decay * expected + (1 - decay) * parameter.detach()
    torch.testing.assert_close(ema.shadow_params[0], expected, rtol=1e-12, atol=1e-12)
