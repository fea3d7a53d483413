"""What the method's parts mean, against closed forms in float64."""

import copy

import pytest
import torch
from torch import nn

from deme.diffusion import NoiseSchedule, ShardedRandom, TimestepRange, generator, uniform
from deme.diffusion.timesteps import ProbabilisticSampler, RangeSampler
from deme.merging.methods.weighted_sum import weighted_sum
from deme.methods.deme import DeMe, parameter_hash
from deme.methods.finetune import Finetune
from deme.methods.reweighted import Reweighted, merge_factor
from deme.system.errors import BadConfig
from tests.models import moved, tiny

T = 8
ONES = torch.ones(T, dtype=torch.float64)


class FixedRows:
    """Every listed timestep once, with an image and noise that depend on the timestep alone."""

    def __init__(self, t):
        self.t = torch.tensor(t)
        g = torch.Generator().manual_seed(1)
        self.x0, self.eps = (
            torch.randn(T, 1, 8, 8, generator=g, dtype=torch.float64)[self.t] for _ in range(2)
        )

    def timesteps(self, sampler):
        return self.t

    def normal(self, shape):
        return self.eps


def gradient(method, model, t):
    rows = FixedRows(t)
    loss = sum(method.losses(model, rows.x0, rows).values())
    return torch.autograd.grad(loss, list(model.parameters()))


def stepped(model, gradients, rate=0.1):
    return [p.detach() - rate * g for p, g in zip(model.parameters(), gradients, strict=True)]


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.1, 0.9], [1.3, -0.2]])
@pytest.mark.parametrize("projected", [False, True])
def test_one_step_then_merge_is_one_step_with_reweighted_timesteps(weights, projected):
    """docs/method.md#reweighting: Lambda(t) = (1-p) N w_i(t) + p sum w, here with p = 1/2, N = 2 and every timestep enumerated."""
    model = tiny(num_timesteps=T).double()
    teacher = copy.deepcopy(model)
    if projected:
        model.add_projections()
    method = DeMe(ONES, RangeSampler(TimestepRange(0, T), T))
    method.prepare(lambda: teacher, "cpu")
    experts = []
    for inside in uniform(2, T):
        # inside: 1/2 * 1/4 + 1/2 * 1/8 = 3/16, outside 1/16: three copies and one of the timesteps
        t = [t for t in range(T) for _ in range(3 if t in inside else 1)]
        experts.append(stepped(model, gradient(method, model, t)))
    merged = [
        weighted_sum(e, p.detach(), weights)
        for p, *e in zip(model.parameters(), *experts, strict=True)
    ]

    factor = torch.tensor(
        [0.5 * 2 * weights[int(t >= T // 2)] + 0.5 * sum(weights) for t in range(T)],
        dtype=torch.float64,
    )
    torch.testing.assert_close(merge_factor(uniform(2, T), weights, 0.5), factor)
    reweighted = Finetune(factor, RangeSampler(TimestepRange(0, T), T))
    expected = stepped(model, gradient(reweighted, model, list(range(T))))
    change = torch.cat(
        [(m - p.detach()).flatten() for m, p in zip(merged, model.parameters(), strict=True)]
    )
    wanted = torch.cat(
        [(e - p.detach()).flatten() for e, p in zip(expected, model.parameters(), strict=True)]
    )
    assert float(wanted.norm()) > 0
    assert float((change - wanted).norm() / wanted.norm()) < 1e-10


def test_the_factor_of_the_church_weights_and_of_unequal_ranges():
    church = merge_factor(uniform(4, 1000), [0.1, 0.1, 0.2, 0.5], 0.3)
    assert church[[0, 250, 500, 999]].tolist() == pytest.approx([0.55, 0.55, 0.83, 1.67])
    assert merge_factor(uniform(4, 1000), [0.25] * 4, 0.3).tolist() == pytest.approx([1.0] * 1000)
    unequal = merge_factor([TimestepRange(0, 2), TimestepRange(2, 8)], [1.0, 0.0], 0.5)
    assert unequal.tolist() == pytest.approx([0.5 * 4 + 0.5] * 2 + [0.5] * 6)


@pytest.mark.parametrize(
    ("merge_weights", "probability", "message"),
    [
        ([0.5], 0.3, "1 numbers for 2 ranges"),
        ("best", 0.3, "must be 'uniform' or a list"),
        ([1.0, -1.0], 0.3, "a loss weight of -1.4 at t = 4"),
        ([0.5, 0.5], 3, "probability must lie in"),
    ],
)
def test_a_reweighting_that_cannot_be_is_refused(merge_weights, probability, message):
    with pytest.raises(BadConfig, match=message):
        Reweighted(
            ONES, RangeSampler(TimestepRange(0, T), T), uniform(2, T), merge_weights, probability
        )


class LinearModel(nn.Module):
    """eps_hat = c_t x_t: on N(0, 1) data the best c_t is sigma_t."""

    prediction_type = "epsilon"

    def __init__(self, start):
        super().__init__()
        self.schedule = NoiseSchedule.linear(T, 0.1, 0.5)
        self.c = nn.Parameter(torch.full((T,), start, dtype=torch.float64))

    def forward(self, x_t, t):
        return self.c[t].view(-1, 1) * x_t


@pytest.mark.parametrize(("consistency", "share"), [(0.0, 1.0), (1.0, 0.5), (3.0, 0.25)])
def test_the_optimum_lies_between_pretrained_and_posterior_mean(consistency, share):
    """docs/method.md#consistency: with lambda_c = 1 the expert converges half-way; in general 1 / (1 + lambda_c) of the way."""
    model, pretrained = LinearModel(0.0), LinearModel(0.0)
    method = DeMe(ONES, RangeSampler(TimestepRange(0, T), T), consistency)
    method.prepare(lambda: pretrained, "cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5 / (1 + consistency))
    for step in range(400):
        draws = generator("toy", step)
        rows = ShardedRandom(draws, 4096, 0, 4096)
        x0 = torch.randn(4096, 1, generator=generator("x0", step), dtype=torch.float64)
        for group in optimizer.param_groups:
            group["lr"] = 2.0 / (1 + consistency) / (1 + step / 10)
        loss = sum(method.losses(model, x0, rows).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sigma = (1 - model.schedule.alpha_squared).sqrt()
    torch.testing.assert_close(model.c.detach(), share * sigma, rtol=0.02, atol=0.005)


def test_consistency_has_no_gradient_at_the_start():
    model = tiny(num_timesteps=T).double()
    method = DeMe(ONES, RangeSampler(TimestepRange(0, T), T))
    method.prepare(lambda: tiny(num_timesteps=T).double(), "cpu")
    rows = FixedRows(list(range(T)))
    terms = method.losses(model, rows.x0, rows)
    assert terms["consistency"].item() == 0
    assert all(
        float(g.abs().max()) == 0
        for g in torch.autograd.grad(terms["consistency"], list(model.parameters()))
    )


def test_the_teacher_has_no_projections_and_a_touched_teacher_is_noticed():
    method = DeMe(ONES, ProbabilisticSampler(TimestepRange(0, 4), T, 0.3))
    method.prepare(lambda: tiny(num_timesteps=T), "cpu")
    assert method.teacher.projections is None
    assert not any(p.requires_grad for p in method.teacher.parameters())
    method.finish()
    before = parameter_hash(method.teacher)
    with torch.no_grad():
        method.teacher.unet.conv_in.bias[0] += 1e-6
    assert parameter_hash(method.teacher) != before
    with pytest.raises(Exception, match="teacher changed"):
        method.finish()


@pytest.mark.parametrize("weight", [-1.0, [1.0, -1.0]])
def test_a_negative_consistency_weight_is_refused(weight):
    with pytest.raises(ValueError, match="consistency_weight must not be negative"):
        DeMe(ONES, RangeSampler(TimestepRange(0, T), T), weight, ranges=uniform(2, T))


def test_a_list_of_consistency_weights_has_one_for_each_range():
    with pytest.raises(BadConfig, match=r"one for each of the 2 ranges; got 3: \[1, 2, 3\]"):
        DeMe(ONES, RangeSampler(TimestepRange(0, T), T), [1, 2, 3], ranges=uniform(2, T))


def consistency_terms(weight, teacher="base", ranges=(), student=None):
    """The terms at every timestep, with a teacher that differs from the student."""
    model = student or moved(tiny(num_timesteps=T), 1, 0.1).double()
    method = DeMe(
        torch.linspace(1, 2, T, dtype=torch.float64),
        RangeSampler(TimestepRange(0, T), T),
        weight,
        teacher,
        ranges,
    )
    method.prepare(lambda: tiny(num_timesteps=T).double(), "cpu")
    rows = FixedRows(list(range(T)))
    return method, method.losses(model, rows.x0, rows)


@torch.no_grad()
def test_a_consistency_weight_per_range_counts_at_the_timesteps_of_its_range():
    """Against a loop over timesteps, in float64; equal weights are one weight."""
    ranges = [TimestepRange(0, 3), TimestepRange(3, 4), TimestepRange(4, T)]
    weights = [0.5, 0.0, 2.0]
    _, terms = consistency_terms(weights, ranges=ranges)
    student, teacher = (
        moved(tiny(num_timesteps=T), 1, 0.1).double(),
        tiny(num_timesteps=T).double(),
    )
    rows, total = FixedRows(list(range(T))), 0.0
    for t in range(T):
        x_t = student.schedule.add_noise(rows.x0[t : t + 1], rows.eps[t : t + 1], torch.tensor([t]))
        own, answer = (network(x_t, torch.tensor([t])) for network in (student, teacher))
        factor = next(w for w, item in zip(weights, ranges, strict=True) if t in item)
        total += factor * (1 + t / (T - 1)) * float((own - answer).square().mean()) / T
    assert float(terms["consistency"]) == pytest.approx(total, rel=1e-12)
    _, equal = consistency_terms([0.7, 0.7, 0.7], ranges=ranges)
    _, one = consistency_terms(0.7)
    torch.testing.assert_close(equal["consistency"], one["consistency"], rtol=1e-12, atol=0)
    assert torch.equal(equal["denoising"], one["denoising"])
    assert "consistency" not in consistency_terms([0.0, 0.0, 0.0], ranges=ranges)[1]


def test_a_teacher_that_follows_the_average_answers_as_the_average_does():
    method, _ = consistency_terms(1.0, "ema")
    average = moved(tiny(num_timesteps=T), 5, 0.1).double()
    student = moved(tiny(num_timesteps=T), 1, 0.1).double()
    values = [p.detach() for p in average.parameters()]
    method.follow(values)
    rows = FixedRows(list(range(T)))
    t = torch.arange(T)
    x_t = student.schedule.add_noise(rows.x0, rows.eps, t)
    weights = torch.linspace(1, 2, T, dtype=torch.float64)

    def expected():
        errors = (student(x_t, t) - average(x_t, t)).square().flatten(1).mean(1)
        return (weights * errors).mean()

    torch.testing.assert_close(method.losses(student, rows.x0, rows)["consistency"], expected())
    for value in values:  # the average goes on, in place
        value.mul_(1.5)
    torch.testing.assert_close(method.losses(student, rows.x0, rows)["consistency"], expected())
    method.finish()  # a teacher that is meant to change
