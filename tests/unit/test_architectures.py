"""The models that are built from options: how large they are."""

import pytest
import torch
from diffusers import UNet2DModel

from deme.models.families.unconditional import build_unconditional
from deme.runs import compose_stage
from deme.system import files

SIZES = {"ddpm_cifar10": 35_746_307, "ddpm_lsun256": 113_673_219, "ddpm_compact": 8_952_067}


@pytest.mark.parametrize(("option", "size"), SIZES.items())
def test_the_options_have_the_parameters_they_say(option, size, in_tmp):
    spec = compose_stage("train", [f"model={option}"])["model"]
    with torch.device("meta"):
        network = UNet2DModel(**spec["unet"])
    assert sum(parameter.numel() for parameter in network.parameters()) == size


def test_a_seed_decides_the_weights():
    spec = {"sample_size": 8, "block_out_channels": [8], "norm_num_groups": 2, "layers_per_block": 1,
            "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "attention_head_dim": 8}  # fmt: skip
    one, again, other = (
        build_unconditional(spec, {}, seed).unet.conv_in.weight for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_scheduler_that_leaves_its_betas_out_means_those_of_its_class(tmp_path):
    import diffusers

    from deme.models.noise import read_scheduler

    for kind in ("HeunDiscreteScheduler", "DDPMScheduler", "PNDMScheduler"):
        files.write_json(tmp_path / kind / "config.json", {"sample_size": 8})
        files.write_json(tmp_path / kind / "scheduler_config.json", {"_class_name": kind})
        config = read_scheduler(kind, tmp_path / kind)
        found = diffusers.DDPMScheduler.from_config(config).alphas_cumprod
        torch.testing.assert_close(found, getattr(diffusers, kind)().alphas_cumprod)
