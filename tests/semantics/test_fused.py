"""A fused optimizer and float16's loss scale: what cannot work together is said."""

import pytest

from deme.builders.models import Compute, check_training
from deme.system.errors import BadConfig

GPU16 = Compute("gpu", "16-mixed", "cuda:0")


def config(fused, clip):
    return {"optimizer": {"fused": fused}, "gradient_clip": clip}


def test_fused_steps_clipping_and_a_loss_scale_exclude_each_other():
    with pytest.raises(BadConfig, match="a fused optimizer undoes float16's loss scale by itself"):
        check_training(config(True, 1.0), GPU16)
    for fused, clip in ((None, 1.0), (False, 1.0), (True, None)):
        check_training(config(fused, clip), GPU16)
    check_training(config(True, 1.0), Compute("gpu", "bf16-mixed", "cuda:0"))


def test_float16_does_not_train_on_a_cpu():
    with pytest.raises(BadConfig, match="trains on a GPU only"):
        check_training(config(None, None), Compute("cpu", "16-mixed", "cpu"))
