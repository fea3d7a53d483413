"""What changes with precision, memory format, recomputed activations and fused steps: speed and rounding, nothing else."""

import pytest
import torch

from deme.builders.compute import Compute
from deme.data import InMemoryImages
from deme.diffusion import RangeSampler, ShardedRandom, TimestepRange, generator, seeded
from deme.methods.deme import DeMe, hold_as_cast, parameter_hash
from deme.methods.finetune import Finetune
from deme.models.adapter import BaseOfAdapter, LoRA
from deme.training.ema import warmup_ema
from deme.training.fit import Loop, fit
from deme.training.learning_rate import ConstantRate
from deme.training.module import DiffusionModule
from tests.models import tiny

IMAGES = InMemoryImages(
    torch.randint(0, 256, (24, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
)
TIMESTEPS = RangeSampler(TimestepRange(0, 1000), 1000)
ATTENTION = {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
             "attention_head_dim": 4, "add_attention": True}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches")


def trained(tmp_path, model=None, method=None, fused=None, compute=None, **loop):
    model, method = model or tiny(**ATTENTION), method or Finetune(torch.ones(1000), TIMESTEPS)
    if compute is not None:
        compute.prepare_for_training(model, IMAGES, 6, 0, method.teacher)

    def optimizer(groups):
        return torch.optim.AdamW(groups, lr=1e-3, fused=fused)

    module = DiffusionModule(model, method, optimizer, ConstantRate(4), warmup_ema, 0, 50)
    fit(module, IMAGES, Loop(4, 6, 0, accelerator="cpu", **loop), tmp_path)
    return module


def distance(one, other):
    names = one.model.state_dict().keys()
    assert names == tiny(**ATTENTION).state_dict().keys()  # plain ones
    a, b = (
        torch.cat([m.model.state_dict()[name].flatten() for name in names]) for m in (one, other)
    )
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_teacher_in_low_precision_answers_what_autocast_does_bit_for_bit(dtype):
    x, t = torch.randn(3, 1, 8, 8, generator=generator("x")), torch.tensor([0, 500, 999])
    full, held = tiny(**ATTENTION), tiny(**ATTENTION)
    hold_as_cast(held, dtype)
    with torch.no_grad(), torch.autocast("cpu", dtype, cache_enabled=False):
        expected, found = full(x, t), held(x, t)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
    kinds = {p.dtype for p in held.parameters()}
    assert kinds == {dtype, torch.float32}
    assert all(p.dtype == torch.float32 for name, p in held.named_parameters() if "norm" in name)


def test_a_low_precision_teacher_gives_the_losses_and_gradients_of_a_full_one():
    found = []
    for dtype in (None, torch.bfloat16):
        method, model = DeMe(torch.ones(1000), TIMESTEPS), tiny(1)
        method.prepare(tiny, "cpu", dtype)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            terms = method.losses(
                model, torch.zeros(4, 1, 8, 8), ShardedRandom(generator("rows"), 4, 0, 4)
            )
        sum(terms.values()).backward()
        assert float(terms["consistency"].detach()) > 0
        assert all(term.dtype == torch.float32 for term in terms.values())
        found.append(
            torch.cat(
                [
                    terms["consistency"].detach()[None],
                    *(p.grad.flatten() for p in model.parameters()),
                ]
            )
        )
        method.finish()
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_in_low_precision_gives_an_adapter_the_same_losses_and_gradients(dtype):
    found = []
    for name in (None, str(dtype).removeprefix("torch.")):
        model = tiny(**ATTENTION)
        model.add_adapter(LoRA(2, base_dtype=name))
        for key, value in model.trained_parameters().items():
            value.data = 0.3 * torch.randn(value.shape, generator=generator("b", key))
            assert value.dtype == torch.float32
        method = DeMe(torch.ones(1000), TIMESTEPS)
        method.prepare(lambda model=model: BaseOfAdapter(model), "cpu", dtype)
        with torch.autocast("cpu", dtype, cache_enabled=False):
            terms = method.losses(
                model, torch.zeros(4, 1, 8, 8), ShardedRandom(generator("rows"), 4, 0, 4)
            )
        sum(terms.values()).backward()
        gradients = [p.grad.flatten() for p in model.trained_parameters().values()]
        found.append(torch.cat([terms["consistency"].detach()[None], *gradients]))
        method.finish()
        x, t = torch.randn(3, 1, 8, 8, generator=generator("x")), torch.tensor([0, 500, 999])
        with torch.no_grad():
            found.append(model(x, t))  # without autocast, as validation is
    assert torch.equal(found[0], found[2])
    assert float(found[0][0]) > 0
    assert found[3].dtype == torch.float32
    assert 0 < float((found[1] - found[3]).abs().max()) < 0.05
    kinds = {p.dtype for n, p in model.named_parameters() if "lora" not in n and "norm" not in n}
    assert kinds == {dtype}


def test_in_float32_the_teacher_is_the_pretrained_model_itself():
    method = DeMe(torch.ones(1000), TIMESTEPS)
    method.prepare(tiny, "cpu")
    assert parameter_hash(method.teacher) == parameter_hash(tiny())


def test_in_mixed_precision_weights_averages_and_optimizer_are_float32(tmp_path):
    method = DeMe(torch.ones(1000), TIMESTEPS)
    method.prepare(lambda: tiny(**ATTENTION), "cpu", torch.bfloat16)
    module = trained(tmp_path / "bf16", method=method, precision="bf16-mixed", checkpoint_every=2)
    method.finish()
    full = trained(tmp_path / "f32")
    checkpoint = torch.load(tmp_path / "bf16" / "checkpoints" / "last.ckpt", weights_only=True)
    moments = [
        v
        for state in checkpoint["optimizer_states"][0]["state"].values()
        for v in state.values()
        if v.ndim
    ]
    assert len(moments) == 2 * len(list(module.model.parameters()))
    for values in (
        module.model.parameters(),
        module.ema.shadow_params,
        module.weights().values(),
        moments,
    ):
        assert {value.dtype for value in values} == {torch.float32}
    assert 0 < distance(module, full) < 5e-2


def test_recomputed_activations_change_no_bit(tmp_path):
    kept = trained(tmp_path / "kept", model=tiny(dropout=0.1, **ATTENTION))
    compute = Compute("cpu", "32-true", "cpu", gradient_checkpointing=True)
    recomputed = trained(
        tmp_path / "recomputed", model=tiny(dropout=0.1, **ATTENTION), compute=compute
    )
    assert recomputed.model.unet.is_gradient_checkpointing
    assert distance(recomputed, kept) == 0


@pytest.mark.parametrize(
    "more",
    [{"compute": Compute("cpu", "32-true", "cpu", channels_last=True)}, {"fused": True}],
    ids=str,
)
def test_memory_format_and_fused_steps_change_rounding_alone(more, tmp_path):
    plain, other = trained(tmp_path / "plain"), trained(tmp_path / "other", **more)
    if "compute" in more:
        assert other.model.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert distance(other, plain) < 1e-4


def test_masks_of_dropout_follow_from_seed_step_and_rank_and_leave_torchs_own_numbers_alone():
    def mask(*keys):
        with seeded(torch.device("cpu"), *keys):
            return torch.nn.functional.dropout(torch.ones(64), 0.5)

    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(mask("dropout", 0, 3, 0), mask("dropout", 0, 3, 0))
    assert not torch.equal(mask("dropout", 0, 3, 0), mask("dropout", 0, 4, 0))
    assert not torch.equal(mask("dropout", 0, 3, 0), mask("dropout", 0, 3, 1))
    assert torch.equal(torch.rand(2), expected)
