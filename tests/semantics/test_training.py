"""What the trainer does with a method's gradients: clips the model's, leaves the method's own, accumulates."""

import logging
import warnings

import pytest
import torch

from deme.data import InMemoryImages
from deme.data.pixels import to_float
from deme.diffusion import (
    RangeSampler,
    ShardedRandom,
    StratifiedSampler,
    TimestepRange,
    generator,
    uniform,
)
from deme.methods.ant import Ant
from deme.methods.balancing.pcgrad import PCGrad
from deme.methods.balancing.uncertainty import Uncertainty
from deme.methods.finetune import Finetune
from deme.training.batches import StepBatches
from deme.training.fit import Loop, _lightning_quiet, fit
from deme.training.learning_rate import ConstantRate
from deme.training.module import DiffusionModule
from tests.models import tiny

IMAGES = InMemoryImages(
    torch.randint(0, 256, (24, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
)


def ant(balancing):
    ranges = uniform(3, 1000)
    return Ant(
        torch.ones(1000), StratifiedSampler(TimestepRange(0, 1000), ranges), ranges, balancing, 6
    )


def train(method, tmp_path, **loop):
    module = DiffusionModule(
        tiny(), method, lambda groups: torch.optim.SGD(groups, lr=1.0), ConstantRate(1), None, 0, 50
    )
    before = [p.detach().clone() for p in module.model.parameters()]
    fit(module, IMAGES, Loop(1, 6, 0, accelerator="cpu", **loop), tmp_path)
    return torch.cat(
        [(b - p.detach()).flatten() for b, p in zip(before, module.model.parameters(), strict=True)]
    )


def test_the_models_gradient_is_clipped_and_what_the_method_learns_is_not(tmp_path):
    free, clipped = ant(Uncertainty(3)), ant(Uncertainty(3))
    whole = train(free, tmp_path / "free", gradient_clip=None)
    step = train(clipped, tmp_path / "clipped", gradient_clip=1e-2)
    assert float(whole.norm()) > 1e-2
    assert float(step.norm()) == pytest.approx(1e-2, rel=1e-4)
    torch.testing.assert_close(step / step.norm(), whole / whole.norm(), rtol=1e-3, atol=1e-5)
    losses = torch.tensor([clipped.report()[f"task_loss/{j}"] for j in range(3)])
    learned = clipped.balancing.log_variance.detach()
    torch.testing.assert_close(
        learned, -0.025 * 0.5 * (1 - losses / 3)
    )  # its own rate, the whole gradient
    assert torch.equal(learned, free.balancing.log_variance.detach())


def test_combined_gradients_accumulate_as_the_mean_over_batches(tmp_path):
    found = train(ant(PCGrad(3)), tmp_path, gradient_clip=None, accumulate=2)
    model, expected = tiny().train(), []
    for k, indices in StepBatches(len(IMAGES), 6, 2, 0):
        model.zero_grad()
        x0 = to_float(IMAGES.__getitems__(indices.tolist()))
        rows = ShardedRandom(generator("train", 0, k), 6, 0, 6)
        ant(PCGrad(3)).losses(model, x0, rows)["balanced"].backward()
        expected.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(found, sum(expected) / 2, rtol=1e-3, atol=1e-6)


def test_what_dropout_drops_follows_from_seed_and_step(tmp_path):
    def trained(name, rate, steps=3, drawn_before=0):
        torch.rand(drawn_before)
        method = Finetune(torch.ones(1000), RangeSampler(TimestepRange(0, 1000), 1000))
        module = DiffusionModule(
            tiny(dropout=rate),
            method,
            lambda groups: torch.optim.SGD(groups, lr=0.1),
            ConstantRate(steps),
            None,
            0,
            50,
        )
        fit(module, IMAGES, Loop(steps, 6, 0, accelerator="cpu"), tmp_path / name)
        return torch.cat([p.detach().flatten() for p in module.model.parameters()])

    first = trained("first", 0.5)
    assert torch.equal(trained("again", 0.5, drawn_before=7), first)
    assert not torch.equal(trained("none", 0.0), first)


def test_what_lightning_says_about_itself_is_not_shown(capfd):
    from lightning_fabric.utilities.rank_zero import rank_zero_info, rank_zero_warn
    from lightning_fabric.utilities.warnings import PossibleUserWarning

    with _lightning_quiet():
        logging.getLogger("lightning_fabric.accelerators.cuda").warning(
            "a device with tensor cores"
        )
        logging.getLogger("pytorch_lightning.trainer").warning("a tip")
        rank_zero_info("a notice")
        rank_zero_warn("a guess", category=PossibleUserWarning)
        with pytest.raises(UserWarning, match="somebody else's"):
            warnings.warn("somebody else's", stacklevel=1)
    assert capfd.readouterr() == ("", "")
