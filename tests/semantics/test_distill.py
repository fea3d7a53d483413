"""Distillation of routed experts: its loss, its fixed points, what is looked at ahead, and what teaches."""

import copy
import json

import pytest
import torch

from deme.builders.compute import Compute
from deme.builders.models import load_experts
from deme.data import InMemoryImages
from deme.diffusion import (
    EMPTY_CONDITION,
    RangeSampler,
    ShardedRandom,
    StratifiedSampler,
    TimestepRange,
    generator,
    uniform,
)
from deme.methods.deme import parameter_hash
from deme.methods.distill import Distill
from deme.models.adapter import LoRA
from deme.models.loading import load_folder
from deme.models.routed_experts import RoutedExperts
from deme.system.errors import BadConfig, WorkFailed
from deme.training.fit import Loop, fit
from deme.training.learning_rate import ConstantRate
from deme.training.module import DiffusionModule
from tests.models import moved, tiny

T = 8
WEIGHTS = torch.linspace(1, 2, T, dtype=torch.float64)
EVERYTHING = RangeSampler(TimestepRange(0, T), T)
IMAGES = InMemoryImages(
    torch.randint(0, 256, (24, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
)
UNEQUAL = [TimestepRange(0, 3), TimestepRange(3, 4), TimestepRange(4, T)]


@pytest.fixture
def saved(tmp_path):
    """Writes experts as runs do, one per range, and returns their folders."""

    def save(ranges, **more):
        folders = []
        for index, item in enumerate(ranges):
            model = moved(tiny(num_timesteps=T, **more), 10 + index, 0.1)
            folders.append(tmp_path / f"expert{index}")
            about = {"range": [item.low, item.high], "num_timesteps": T, "base": "base"}
            model.save(folders[-1], model.state_dict(), about)
        return folders

    return save


def distill(ranges, folders, timesteps=EVERYTHING, **more):
    method = Distill(WEIGHTS, timesteps, ranges, folders, 6, **more)
    method.prepare(lambda: pytest.fail("no base is needed"), "cpu")
    method.teacher.double()
    return method


def sample(step=0, count=16):
    """x0, draws and condition of a training step."""
    x0 = torch.randn(count, 1, 8, 8, generator=generator("x0", step), dtype=torch.float64)
    return x0, ShardedRandom(generator("draws", step), count, 0, count), EMPTY_CONDITION


@pytest.mark.parametrize("ranges", [uniform(1, T), uniform(2, T), UNEQUAL], ids=str)
@pytest.mark.parametrize("resident", ["all", "one"])
@torch.no_grad()
def test_the_loss_is_the_weighted_distance_to_the_expert_of_each_timesteps_range(
    saved, ranges, resident
):
    """Against a loop over the images, in float64."""
    folders = saved(ranges)
    method = distill(ranges, folders, denoising_weight=0.3, resident=resident)
    student = moved(tiny(num_timesteps=T), 1, 0.1).double()
    terms = method.losses(student, *sample())
    x0, draws, _ = sample()
    t = draws.timesteps(EVERYTHING)
    eps = draws.normal(x0.shape[1:]).double()
    experts = [load_folder(str(folder)).double() for folder in folders]
    distance = denoising = 0.0
    for i in range(len(x0)):
        x_t = student.schedule.add_noise(x0[i : i + 1], eps[i : i + 1], t[i : i + 1])
        (owner,) = [index for index, item in enumerate(ranges) if int(t[i]) in item]
        answer, own = (net(x_t, t[i : i + 1]) for net in (experts[owner], student))
        weight = float(WEIGHTS[t[i]]) / len(x0)
        distance += weight * float((own - answer).square().mean())
        denoising += weight * float((own - eps[i : i + 1]).square().mean())
    assert float(terms["distillation"]) == pytest.approx(distance, rel=1e-12)
    assert float(terms["denoising"]) == pytest.approx(0.3 * denoising, rel=1e-12)
    assert "denoising" not in distill(ranges, folders).losses(student, *sample())


@torch.no_grad()
def test_loras_take_turns_in_one_base(tmp_path):
    base, ranges, folders = tiny(num_timesteps=T), uniform(2, T), []
    base.save(tmp_path / "base", base.state_dict(), {})
    for index, item in enumerate(ranges):
        model = tiny(num_timesteps=T)
        model.add_adapter(LoRA(2))
        for name, value in model.trained_parameters().items():
            value.copy_(0.3 * torch.randn(value.shape, generator=generator(index, name)))
        about = {"range": [item.low, item.high], "num_timesteps": T, "base_model": str(tmp_path / "base")}  # fmt: skip
        model.save(tmp_path / str(index), model.state_dict(), about)
        folders.append(tmp_path / str(index))
    method = distill(ranges, folders)
    assert len(method.teacher.models) == 1
    student = tiny(num_timesteps=T).double()
    found = float(method.losses(student, *sample())["distillation"])
    fused = [load_folder(str(folder)) for folder in folders]
    for index, model in enumerate(fused):
        model.fuse_adapter()
        model.save(tmp_path / f"whole{index}", model.state_dict(), json.loads((folders[index] / "deme.json").read_text()))  # fmt: skip
    whole = distill(ranges, [tmp_path / f"whole{i}" for i in range(2)])
    assert len(whole.teacher.models) == 2
    expected = float(whole.losses(student, *sample())["distillation"])
    assert found == pytest.approx(expected, rel=1e-5)
    assert found > 1e-4


def test_a_student_that_is_the_only_expert_has_loss_0_and_gradient_0(saved):
    (folder,) = saved(uniform(1, T))
    student = load_folder(str(folder)).double()
    loss = distill(uniform(1, T), [folder]).losses(student, *sample())["distillation"]
    # rounding alone, which depends on where tensors begin in memory
    assert loss.item() < 1e-28
    gradients = torch.autograd.grad(loss, list(student.parameters()))
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-12


@pytest.mark.parametrize("expert", [0, 1])
def test_a_student_that_is_one_of_two_experts_has_loss_0_on_its_range_alone(saved, expert):
    ranges = uniform(2, T)
    folders = saved(ranges)
    student = load_folder(str(folders[expert])).double()
    losses = []
    for item in ranges:
        method = distill(ranges, folders, RangeSampler(item, T))
        losses.append(float(method.losses(student, *sample())["distillation"].detach()))
    assert losses[expert] < 1e-20
    assert losses[1 - expert] > 1e-4


def test_targets_are_what_routed_sampling_asks_for(saved):
    folders = saved(UNEQUAL)
    routed = load_experts(folders, Compute("cpu", "32-true", "cpu")).network
    experts = RoutedExperts(folders, UNEQUAL, 6)
    t = torch.randint(T, (40,), generator=generator("t"))
    x_t = torch.randn(40, 1, 8, 8, generator=generator("x"))
    with torch.no_grad():
        torch.testing.assert_close(experts(x_t, t), routed(x_t, t), rtol=1e-5, atol=1e-6)
        one = t[:1].repeat(5)
        assert torch.equal(experts(x_t[:5], one), routed(x_t[:5], one))


def test_one_expert_resident_is_exchanged_once_less_than_there_are_experts(saved):
    folders = saved(UNEQUAL)
    every, one = (RoutedExperts(folders, UNEQUAL, 6, alone) for alone in (False, True))
    assert len(list(one.parameters())) * 3 == len(list(every.parameters()))
    for call in range(3):
        t = torch.arange(T).repeat(2)
        x_t = torch.randn(2 * T, 1, 8, 8, generator=generator("x", call))
        with torch.no_grad():
            assert torch.equal(one(x_t, t), every(x_t, t))
        assert one.num_swaps == 2 * (call + 1)


def test_a_range_of_many_images_answers_in_batches(saved):
    experts = RoutedExperts(saved(uniform(2, T)), uniform(2, T), 6)
    sizes = []
    for model in experts.models:
        model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    experts(torch.zeros(20, 1, 8, 8), torch.tensor([0] * 16 + [7] * 4))
    assert sizes == [5, 5, 6, 4]


def fitted(folder, ranges, folders, steps, lookahead, more_steps=None, **loop):
    """Train a student; return its weights, and the curve of its loss."""
    method = Distill(
        torch.ones(T), EVERYTHING, ranges, folders, 6, denoising_weight=0.1, lookahead=lookahead
    )
    method.prepare(lambda: None, "cpu")
    for stop in [steps] if more_steps is None else [steps, more_steps]:
        module = DiffusionModule(
            tiny(num_timesteps=T), method, lambda groups: torch.optim.SGD(groups, lr=0.1),
            ConstantRate(9), None, 0, 1,
        )  # fmt: skip
        loop = {"checkpoint_every": 1, "log_every": 1, **loop}
        fit(module, IMAGES, Loop(stop, 6, 0, accelerator="cpu", **loop), folder)
    weights = torch.cat([p.detach().flatten() for p in module.model.parameters()])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return weights, [row["loss"] for row in rows]


@pytest.mark.parametrize("more", [{}, {"accumulate": 2, "random_flip": True}], ids=["", "more"])
def test_looking_ahead_changes_the_rounding_of_what_is_learned_and_no_more(saved, tmp_path, more):
    ranges = uniform(2, T)
    folders = saved(ranges)
    expected, curve = fitted(tmp_path / "1", ranges, folders, 5, 1, **more)
    for ahead in (3, 50):
        found, losses = fitted(tmp_path / str(ahead), ranges, folders, 5, ahead, **more)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert losses == pytest.approx(curve, rel=1e-4)


@pytest.mark.parametrize("stop", [2, 3])
def test_a_run_that_goes_on_within_a_window_learns_the_same_bit_for_bit(saved, tmp_path, stop):
    ranges = uniform(2, T)
    folders = saved(ranges)
    whole = fitted(tmp_path / "whole", ranges, folders, 5, 3)
    parts = fitted(tmp_path / "parts", ranges, folders, stop, 3, 5)
    assert torch.equal(parts[0], whole[0])
    assert parts[1] == whole[1]


def test_touched_experts_are_noticed(saved):
    ranges = uniform(2, T)
    method = Distill(WEIGHTS, EVERYTHING, ranges, saved(ranges), 6)
    method.prepare(lambda: None, "cpu")
    assert not any(p.requires_grad for p in method.teacher.parameters())
    method.finish()
    before = parameter_hash(method.teacher)
    with torch.no_grad():
        method.teacher.models[1].unet.conv_in.bias[0] += 1e-6
    assert parameter_hash(method.teacher) != before
    with pytest.raises(WorkFailed, match="teacher changed"):
        method.finish()


def test_stratified_timesteps_and_experts_with_projections(saved):
    ranges = uniform(2, T)
    folders = saved(ranges)
    student = moved(tiny(num_timesteps=T), 1, 0.1).double()
    projected = []
    for folder in folders:
        model = load_folder(str(folder))
        model.add_projections()
        moved(model.projections, 3, 0.1)
        projected.append(folder.with_name(f"{folder.name}p"))
        about = json.loads((folder / "deme.json").read_text())
        model.save(projected[-1], model.state_dict(), about)
    sampler = StratifiedSampler(TimestepRange(0, T), ranges)
    plain, other = (
        distill(ranges, f, sampler).losses(copy.deepcopy(student), *sample())["distillation"]
        for f in (folders, projected)
    )
    assert float(other.detach()) > 0
    assert float(other.detach()) != float(plain.detach())


def test_without_experts_there_is_nothing_to_learn():
    with pytest.raises(BadConfig, match=r"inputs.experts names none\ntype: inputs.experts=\["):
        Distill(WEIGHTS, EVERYTHING, uniform(2, T), [], 6)
