"""Precisions that cannot train with the other options are refused before any work."""

import pytest

from deme.runs import TrainSettings, build, compose_stage
from deme.system.errors import BadConfig

GPU16 = ["compute.accelerator=gpu", "compute.precision=16-mixed"]


def settings(*overrides):
    return build(TrainSettings, compose_stage("train", overrides))


def test_fused_steps_clipping_and_a_loss_scale_exclude_each_other():
    with pytest.raises(BadConfig, match=r"type: optimizer\.fused=false"):
        settings(*GPU16, "optimizer.fused=true", "gradient_clip=1.0")
    for fused, clip in (("null", "1.0"), ("false", "1.0"), ("true", "null")):
        settings(*GPU16, f"optimizer.fused={fused}", f"gradient_clip={clip}")
    settings(GPU16[0], "compute.precision=bf16-mixed", "optimizer.fused=true", "gradient_clip=1.0")


def test_float16_does_not_train_on_a_cpu():
    with pytest.raises(BadConfig, match=r"type: compute\.precision=bf16-mixed"):
        settings("compute.precision=16-mixed")
