"""ANT: the tasks are the batch's slices, and what the optimizer sees is what the balancing decided."""

import pytest
import torch

from deme.diffusion import RangeSampler, ShardedRandom, StratifiedSampler, generator
from deme.diffusion.ranges import TimestepRange, from_boundaries, uniform
from deme.methods.ant import Ant, combine, gram_matrix, task_gradients, with_gradient
from deme.methods.balancing.equal import Equal
from deme.methods.balancing.nash_mtl import NashMTL
from deme.methods.balancing.pcgrad import PCGrad
from deme.methods.balancing.uncertainty import Uncertainty
from deme.methods.finetune import Finetune
from deme.system.errors import BadConfig, WorkFailed
from tests.models import tiny

T = 20
EVERYTHING = TimestepRange(0, T)
ONES = torch.ones(T, dtype=torch.float64)


def ant(balancing, k=3, batch_size=11, weights=ONES):
    ranges = uniform(k, T)
    return Ant(weights, StratifiedSampler(EVERYTHING, ranges), ranges, balancing, batch_size)


def images(n=11):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def rows(n=11):
    return ShardedRandom(generator("ant"), n, 0, n)


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients])


def full_task_gradients(method, model, n=11):
    """The gradients of every task loss, each from one pass of the whole batch."""
    x_t, t, target, weight = method.draw(model, images(n), rows(n))
    errors = weight * (model(x_t, t) - target).square().flatten(1).mean(1)
    tasks = [errors[[bool(s in item) for s in t.tolist()]].mean() for item in method.ranges]
    return torch.stack(tasks), [
        torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in tasks
    ]


def step_gradient(method, model, n=11):
    model.zero_grad()
    sum(method.losses(model, images(n), rows(n)).values()).backward()
    return flat([p.grad for p in model.parameters()])


@pytest.mark.parametrize("k", [1, 2, 3, 5, 11])
def test_slice_gradients_are_the_full_gradients_of_the_task_losses(k):
    model = tiny(num_timesteps=T).double()
    method = ant(Equal(k), k)
    losses, expected = full_task_gradients(method, model)
    x_t, t, target, weight = method.draw(model, images(), rows())
    slices = [
        torch.tensor([i for i, s in enumerate(t.tolist()) if s in item]) for item in method.ranges
    ]
    found_losses, found = task_gradients(model, x_t, t, target, weight, slices)
    torch.testing.assert_close(found_losses, losses.detach())
    for one, other in zip(found, expected, strict=True):
        assert float((flat(one) - flat(other)).norm() / flat(other).norm()) < 1e-6
    gram = torch.stack([flat(g) for g in expected])
    torch.testing.assert_close(gram_matrix(found, chunk=100), gram @ gram.T)
    weights = [0.5 - j for j in range(k)]
    torch.testing.assert_close(flat(combine(found, weights)), torch.tensor(weights).double() @ gram)


@pytest.mark.parametrize(
    "balancing", [Equal, Uncertainty, NashMTL, PCGrad], ids=lambda b: b.__name__
)
def test_the_step_is_the_weighted_sum_of_the_full_task_gradients(balancing):
    model = tiny(num_timesteps=T).double()
    method = ant(balancing(3))
    if balancing is Uncertainty:
        with torch.no_grad():
            method.balancing.log_variance.copy_(torch.tensor([-1.0, 0.0, 2.0]))
    found = step_gradient(method, model)
    losses, gradients = full_task_gradients(method, model)
    if balancing in (NashMTL, PCGrad):
        matrix = torch.stack([flat(g) for g in gradients])
        oracle = balancing(3)
        draws = rows()
        method.draw(model, images(), draws)
        oracle.observe(matrix @ matrix.T, draws.generator)
        torch.testing.assert_close(method.balancing.weights(), oracle.weights())
    weights = method.balancing.weights().detach().double()
    expected = sum(w * flat(g) for w, g in zip(weights, gradients, strict=True))
    assert float((found - expected).norm() / expected.norm()) < 1e-6
    report = method.report()
    assert [report[f"task_loss/{j}"] for j in range(3)] == pytest.approx(losses.tolist())
    assert [report[f"task_weight/{j}"] for j in range(3)] == pytest.approx(weights.tolist())


def test_between_refreshes_nash_takes_one_backward_with_the_same_weights():
    model = tiny(num_timesteps=T).double()
    method = ant(NashMTL(3, refresh_every=2))
    first = step_gradient(method, model)
    passes = []
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    second = step_gradient(method, model)  # the same draws, no new weights
    handle.remove()
    assert len(passes) == 1
    torch.testing.assert_close(first, second)


def test_equal_weights_and_equal_slices_are_plain_finetuning():
    model = tiny(num_timesteps=T).double()
    ranges = uniform(4, T)
    method = ant(Equal(4), 4, 12)
    plain = Finetune(ONES, StratifiedSampler(EVERYTHING, ranges))
    torch.testing.assert_close(step_gradient(method, model, 12), step_gradient(plain, model, 12))


def test_under_autocast_losses_and_weights_are_not_rounded():
    model = tiny(num_timesteps=T)
    method = ant(Uncertainty(3))
    with torch.autocast("cpu", torch.bfloat16):
        (objective,) = method.losses(model, images().float(), rows()).values()
    report = method.report()
    assert objective.dtype == torch.float32
    losses = torch.tensor([report[f"task_loss/{j}"] for j in range(3)])
    assert not torch.equal(losses, losses.bfloat16().float())


def test_a_loss_with_a_given_gradient_scales_and_accumulates():
    p = torch.zeros(3, requires_grad=True)
    gradient = torch.tensor([1.0, 2.0, 3.0])
    loss = with_gradient(torch.tensor(7.0), [p], [gradient])
    assert loss.item() == 7
    (loss / 2).backward()
    (with_gradient(torch.tensor(7.0), [p], [gradient]) / 2).backward()
    assert torch.equal(p.grad, gradient)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_task_whose_gradient_is_not_finite_is_named(bad):
    model = tiny(num_timesteps=T)
    weights = ONES.clone()
    weights[8:] = bad
    method = ant(NashMTL(2), k=2, batch_size=4, weights=weights)
    with pytest.raises(
        WorkFailed, match=r"the gradient of the task t in \[10, 20\) is NaN or infinite"
    ):
        method.losses(model, images(4).float(), rows(4))


def test_a_task_without_a_gradient_takes_no_part():
    model = tiny(num_timesteps=T).double()
    weights = ONES.clone()
    weights[:10] = 0
    method = ant(NashMTL(2), k=2, weights=weights)
    found = step_gradient(method, model)
    assert method.report()["nash/idle"] == 1
    _, gradients = full_task_gradients(method, model)
    torch.testing.assert_close(found, flat(gradients[1]) / flat(gradients[1]).norm() / 2)


def test_what_ant_cannot_do_is_said():
    ranges = uniform(5, T)
    with pytest.raises(BadConfig, match="needs a balancing"):
        Ant(ONES, StratifiedSampler(EVERYTHING, ranges), ranges, None, 16)
    with pytest.raises(BadConfig, match="timesteps=stratified"):
        Ant(ONES, RangeSampler(EVERYTHING, T), ranges, Equal(5), 16)
    with pytest.raises(BadConfig, match="5 tasks need at least one image each, batch_size is 4"):
        Ant(ONES, StratifiedSampler(EVERYTHING, ranges), ranges, Equal(5), 4)


@pytest.mark.parametrize(
    ("n", "counts"), [(12, {3}), (13, {3, 4}), (15, {3, 4}), (4, {1}), (3, {0, 1})]
)
def test_stratified_timesteps_share_the_batch_and_every_part_of_it(n, counts):
    ranges = from_boundaries([0, 2, 5, 11, 20], T)
    draw = StratifiedSampler(EVERYTHING, ranges)
    totals = [0] * 4
    for step in range(200):
        t = draw(n, generator("stratified", step)).tolist()
        assert len(t) == n
        found = [sum(s in item for s in t) for item in ranges]
        owner = [next(j for j, item in enumerate(ranges) if s in item) for s in t]
        for start in range(n - 7):  # any 8 in a row, as one of several processes may get
            assert set(owner[start : start + 8]) == {0, 1, 2, 3}
        assert set(found) <= counts
        totals = [a + b for a, b in zip(totals, found, strict=True)]
    assert max(totals) - min(totals) < 0.15 * sum(totals) / 4  # the remainder goes round


def test_stratified_timesteps_are_for_all_of_them():
    with pytest.raises(ValueError, match=r"come from all of \[0, 20\), not from \[0, 5\)"):
        StratifiedSampler(TimestepRange(0, 5), uniform(4, T))
