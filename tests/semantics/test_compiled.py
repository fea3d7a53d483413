"""A compiled network trains only if its gradients are the eager ones; checking it changes nothing."""

import pytest
import torch

from deme.data import InMemoryImages
from deme.diffusion import RangeSampler, TimestepRange, uniform
from deme.methods.deme import DeMe, parameter_hash
from deme.methods.distill import Distill
from deme.system.errors import WorkFailed
from deme.training.compiled import compile_checked, gradients, make_batch
from deme.training.fit import Loop, fit
from deme.training.learning_rate import ConstantRate
from deme.training.module import DiffusionModule
from tests.models import moved, tiny

IMAGES = InMemoryImages(
    torch.randint(0, 256, (24, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
)


def batch_of(model, dtype=None):
    return make_batch(model, IMAGES, 6, "cpu", dtype, 0)


@pytest.fixture
def compiling(monkeypatch):
    """Replaces compiling by a function of the module."""

    def replace(function):
        monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: function(self))

    return replace


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_right_gradients_pass_and_nothing_is_changed(dtype, compiling):
    compiling(lambda model: None)
    model = tiny(dropout=0.1).train()
    before, state = parameter_hash(model), torch.get_rng_state()
    compile_checked(model, batch_of(model, dtype))
    assert parameter_hash(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    assert model.training


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize(
    "wrong", [lambda g: 2 * g, torch.zeros_like, lambda g: g * float("nan")], ids=["2", "0", "nan"]
)
def test_a_wrong_gradient_is_refused_and_named(dtype, wrong, compiling):
    compiling(lambda model: model.unet.conv_in.weight.register_hook(wrong))
    model = tiny().train()
    total = len(list(model.parameters()))
    with pytest.raises(WorkFailed) as refused:
        compile_checked(model, batch_of(model, dtype))
    text = str(refused.value)
    assert (
        f"differ from eager ones for 1 of {total} parameters with torch {torch.__version__}" in text
    )
    assert "worst unet.conv_in.weight: off by" in text
    assert text.endswith("type: compute.compile=false")


def test_a_tenth_of_a_gradient_is_noticed_in_float32(compiling):
    compiling(lambda model: model.unet.conv_out.bias.register_hook(lambda g: 1.1 * g))
    model = tiny().train()
    with pytest.raises(WorkFailed, match=r"worst unet.conv_out.bias: off by 0\.1 of its norm"):
        compile_checked(model, batch_of(model))


def test_a_wrong_teacher_and_a_failing_compiler_are_refused(compiling):
    teacher = tiny(1).requires_grad_(False)
    compiling(
        lambda model: (
            model.register_forward_hook(lambda m, i, o: 1.5 * o) if model is teacher else None
        )
    )
    model = tiny().train()
    with pytest.raises(WorkFailed, match="compiled teacher"):
        compile_checked(model, batch_of(model), teacher)

    def fail(model):
        raise RuntimeError("no compiler")

    compiling(fail)
    with pytest.raises(
        WorkFailed,
        match=r"torch.compile failed here with torch .*: no compiler\ntype: compute.compile=false",
    ):
        compile_checked(model, batch_of(model))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # inductor's own
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_inductor_on_a_tiny_network_trains_what_was_checked(precision, tmp_path):
    dtype = {"32-true": None, "bf16-mixed": torch.bfloat16}[precision]

    def trained(compiled):
        method = DeMe(torch.ones(1000), RangeSampler(TimestepRange(0, 1000), 1000))
        method.prepare(tiny, "cpu", dtype)
        model = tiny(dropout=0.1)
        module = DiffusionModule(model, method, torch.optim.SGD, ConstantRate(3), None, 0, 50)
        if compiled:
            compile_checked(model, batch_of(model, dtype), method.teacher)
            torch.compiler.set_stance("fail_on_recompile")  # what trains is what was checked
        try:
            fit(
                module,
                IMAGES,
                Loop(3, 6, 0, accelerator="cpu", precision=precision, random_flip=True),
                tmp_path / str(compiled),
            )
        finally:
            torch.compiler.set_stance("default")
        assert module.model.state_dict().keys() == tiny().state_dict().keys()
        return torch.cat([p.detach().flatten() for p in module.model.parameters()])

    eager, compiled = trained(False), trained(True)
    assert float((eager - compiled).norm() / eager.norm()) < (1e-5 if dtype is None else 1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # inductor's own
def test_compiled_experts_teach_what_eager_ones_do_without_compiling_again(tmp_path):
    """Each answers for another number of images at every step."""
    ranges, folders = uniform(2, 1000), []
    for index in range(2):
        model = moved(tiny(), 10 + index, 0.1)
        folders.append(tmp_path / f"expert{index}")
        model.save(folders[-1], model.state_dict(), {})

    def trained(compiled):
        timesteps = RangeSampler(TimestepRange(0, 1000), 1000)
        method = Distill(torch.ones(1000), timesteps, ranges, folders, 6)
        method.prepare(tiny, "cpu")
        model = tiny(dropout=0.1).train()
        module = DiffusionModule(model, method, torch.optim.SGD, ConstantRate(12), None, 0, 50)
        if compiled:
            compile_checked(model, batch_of(model), method.teacher)
            torch.compiler.set_stance("fail_on_recompile")
        try:
            fit(module, IMAGES, Loop(12, 6, 0, accelerator="cpu"), tmp_path / str(compiled))
        finally:
            torch.compiler.set_stance("default")
        return torch.cat([p.detach().flatten() for p in module.model.parameters()])

    eager, compiled = trained(False), trained(True)
    assert float((eager - compiled).norm() / eager.norm()) < 1e-5


def test_the_check_takes_the_gradients_of_the_squared_error():
    model = tiny().train()
    batch = batch_of(model)
    found = gradients(model, batch)
    error = (model(batch.x_t, batch.t) - batch.target).square().mean() * 1024
    error.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)
