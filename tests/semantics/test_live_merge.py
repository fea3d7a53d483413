"""A merge in memory reaches the weights that answer, wherever they were moved to."""

import pytest
import torch

from deme.files import write_json
from deme.merging.plan import Expert
from deme.ranges import TimestepRange
from deme.stages.objective import LiveMerge
from tests.models import tiny

ABOUT = {"num_timesteps": 1000, "base": None}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_weights_of_zero_are_the_base_and_one_hot_its_expert(memory_format, tmp_path):
    models = {name: tiny(seed) for seed, name in enumerate(("base", "low", "high"))}
    for name, model in models.items():
        model.save(tmp_path / name, model.state_dict(), {})
        write_json(tmp_path / name / "deme.json", ABOUT)
    experts = [
        Expert(tmp_path / n, TimestepRange(*r), 1000, None) for n, r in (("low", (0, 500)), ("high", (500, 1000)))
    ]
    config = {
        "model": {"path": str(tmp_path / "base")},
        "merge": {"_target_": "deme.merging.methods.weighted_sum.weighted_sum"},
    }
    live = LiveMerge(config, experts, "cpu")
    live.model.to(memory_format=memory_format)  # conv weights get new places
    x, t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 700])
    with torch.no_grad():
        for weights, name in (([0.0, 0.0], "base"), ([1.0, 0.0], "low"), ([0.0, 1.0], "high")):
            live.merge(weights)
            torch.testing.assert_close(live.model(x, t), models[name](x, t), rtol=1e-4, atol=1e-5)
