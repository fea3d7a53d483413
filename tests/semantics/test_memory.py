"""The arithmetic of `deme plan` beside what training really takes, and beside sums written down by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

from deme.models.network_inputs import NetworkInputs, numbers
from deme.training.memory import Plan, most_alive, training_memory
from tests import training_peak

ROOT = Path(__file__).parents[2]


def peaks(*names):
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "tests.training_peak", *names]
    text = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    return {
        name: took
        for line in text.splitlines()
        if line.startswith("{")
        for name, took in json.loads(line).items()
    }


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="resident memory is read from Linux's /proc"
)
@pytest.mark.parametrize(
    "names",
    [
        ("weights", "lora"),
        pytest.param(("activations", "checkpointing", "bf16"), marks=pytest.mark.slow),
    ],
)
def test_two_steps_of_training_take_what_is_told_within_15_percent(names):
    for name, took in peaks(*names).items():
        assert took == pytest.approx(training_peak.told(name).peak, rel=0.15), name


def test_the_settings_are_a_large_network_and_large_activations():
    weights, activations = (training_peak.told(name) for name in ("weights", "activations"))
    assert weights.weights / 4 == pytest.approx(4e7, rel=0.1)
    assert (
        weights.peak == 7 * weights.weights
    )  # + gradients, two moments, average, teacher, the average's differences
    assert activations.activations > 10 * activations.held


def test_an_adapter_adds_its_states_and_no_second_base():
    whole, lora = (training_peak.told(name) for name in ("weights", "lora"))
    factors = lora.weights - whole.weights
    assert 0 < factors < 0.3 * whole.weights
    assert (lora.gradients, lora.optimizer, lora.average) == (factors, 2 * factors, factors)
    assert (lora.teacher, lora.update) == (0, factors)


def linear_chain(count):
    """`count` layers of [8, 8]; each keeps its input [rows, 8] and gives an output."""

    class Chain(nn.Sequential):
        def forward(self, sample, return_dict):
            return (super().forward(sample),)

    return lambda: Chain(*(nn.Linear(8, 8, bias=False) for _ in range(count)))


def test_what_is_alive_is_counted_to_the_byte():
    network = linear_chain(3)()
    x = torch.zeros(5, 8)

    def work():
        hidden = network[1](
            network[0](x)
        )  # no gradient: the first output is gone when the third is made
        network[2](hidden)

    with torch.no_grad():
        assert most_alive(work, [network]) == 2 * x.nbytes
    out = []
    assert most_alive(lambda: out.append(network(x, return_dict=False)), [network]) == 3 * x.nbytes


def test_the_sums_are_those_of_the_options():
    size, rows = 4 * 3 * 64, 10_000
    make, inputs = linear_chain(3), NetworkInputs({"sample": numbers(8)})
    plain = training_memory(make, None, inputs, Plan(rows))
    assert (plain.weights, plain.gradients, plain.optimizer, plain.average, plain.teacher) == (
        size,
        size,
        2 * size,
        size,
        0,
    )
    assert plain.held == 5 * size
    activation = rows * 8 * 4
    assert plain.activations == pytest.approx(
        5 * activation, rel=0.01
    )  # batch, three outputs, target
    low = training_memory(
        make, make, inputs, Plan(rows, moments=0, averages=0, dtype=torch.bfloat16)
    )
    assert (low.optimizer, low.average, low.teacher, low.casts) == (0, 0, size // 2, size // 2)
    tasks = training_memory(make, None, inputs, Plan(rows, tasks=5))
    assert tasks.activations - 4 * size == pytest.approx(plain.activations / 5, rel=0.01)
    assert tasks.update == 6 * size


SMALL = {**training_peak.WIDE, "layers_per_block": 1, "down_block_types": ["DownBlock2D"] * 2,
         "up_block_types": ["UpBlock2D"] * 2, "add_attention": False}  # fmt: skip


class NotCheckpointed(UNet2DModel):
    def enable_gradient_checkpointing(self):
        pass


def activations(*plan, kind=UNet2DModel, **more):
    inputs = NetworkInputs({"sample": numbers(3, 32, 32), "timestep": numbers()})
    return training_memory(lambda: kind(**SMALL), None, inputs, Plan(*plan, **more)).activations


def test_memory_grows_with_the_batch_and_shrinks_with_checkpointing_and_low_precision():
    one = activations(16)
    assert activations(32) == pytest.approx(2 * one, rel=0.02)
    assert activations(16, checkpointing=True) < 0.9 * one
    assert (
        activations(16, dtype=torch.bfloat16)
        < activations(16, dtype=torch.bfloat16, gpu=True)
        < one
    )  # norms


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_backward_pass_that_computes_nothing_again_needs_no_more(dtype):
    whole = activations(4, kind=NotCheckpointed, dtype=dtype, checkpointing=True)
    assert whole == activations(4, dtype=dtype)
