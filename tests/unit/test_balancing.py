"""Balancing: closed forms, invariances, another library's answers, and gradients that have none (docs/method.md#balancing)."""

import math

import pytest
import torch
import torchjd.aggregation as torchjd

from deme.methods.balancing.equal import Equal
from deme.methods.balancing.nash_mtl import MAX_WEIGHT, NashMTL, bargain
from deme.methods.balancing.pcgrad import PCGrad
from deme.methods.balancing.uncertainty import Uncertainty


def gradients(k, condition, seed):
    """k gradients whose Gram matrix has the given condition; every third has its weakest direction all positive."""
    g = torch.Generator().manual_seed(seed)
    first = torch.randn(k, k, generator=g, dtype=torch.float64)
    if seed % 3 == 0:
        first[:, 0] = torch.rand(k, generator=g, dtype=torch.float64) + 0.1
    left = torch.linalg.qr(first).Q
    right = torch.linalg.qr(torch.randn(k, k, generator=g, dtype=torch.float64)).Q
    sizes = (
        torch.logspace(0, math.log10(condition) / 2, k, dtype=torch.float64)
        if k > 1
        else torch.ones(1).double()
    )
    return left @ torch.diag(sizes) @ right


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("k", range(1, 9))
def test_nash_solves_its_equation_and_scales(k, condition):
    for seed in range(12):
        gram = gradients(k, condition, seed)
        gram = gram @ gram.T
        gram /= gram.diagonal().mean()
        found = bargain(gram)
        assert found.ridge == 0
        assert bool((found.alpha > 0).all())
        assert float((gram @ found.alpha - 1 / found.alpha).abs().max()) < 1e-10
        assert found.residual < 1e-10
        for c in (1e-6, 7.0, 1e6):
            torch.testing.assert_close(
                bargain(c**2 * gram).alpha, found.alpha / c, rtol=1e-7, atol=0
            )


def test_nash_scales_task_by_task():
    """Each task may be measured in its own unit: alpha_j goes as 1 / c_j, the update's parts stay."""
    gram = gradients(4, 100.0, 1)
    gram = gram @ gram.T
    c = torch.tensor([1e-20, 1.0, 1e10, 3.0], dtype=torch.float64)
    torch.testing.assert_close(
        bargain(c[:, None] * gram * c).alpha * c, bargain(gram).alpha, rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("cosine", [0.99, 0.5, 0.0, -0.5, -0.999999])
@pytest.mark.parametrize("lengths", [(1.0, 1.0), (1e-4, 3e5)])
def test_nash_of_two_tasks_in_closed_form(cosine, lengths):
    """beta (1 + cos) = 1 / beta, so alpha_j = 1 / (|g_j| sqrt(1 + cos)): both tasks gain the same."""
    length = torch.tensor(lengths, dtype=torch.float64)
    gram = torch.tensor([[1, cosine], [cosine, 1]], dtype=torch.float64) * length[:, None] * length
    torch.testing.assert_close(
        bargain(gram).alpha, 1 / length / math.sqrt(1 + cosine), rtol=1e-9, atol=0
    )


def test_nash_update_has_norm_one_over_root_k():
    g = gradients(5, 50.0, 2)
    nash = NashMTL(5)
    assert nash.wants_gradients()
    nash.observe(g @ g.T, generator())
    assert float((nash.weights() @ g).norm()) == pytest.approx(1 / math.sqrt(5))


@pytest.mark.parametrize("k", [2, 3, 5, 8])
def test_nash_agrees_with_torchjd(k):
    """TorchJD's fair resource allocation with alpha = 1 is proportional fairness: the same equation, another solver."""
    for seed in range(4):
        g = torch.randn(k, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        torch.testing.assert_close(
            bargain(g @ g.T).alpha @ g, torchjd.FairGrad(alpha=1.0)(g), rtol=1e-6, atol=1e-8
        )


@pytest.mark.parametrize(
    "g",
    [
        [[1.0, 0.0], [-1.0, 0.0]],
        [[1e-4, 0.0], [-1e4, 0.0]],
        [[1.0, 0.0], [-1.0, 1e-6]],
        [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]],
        [[1.0, 0.0], [0.0, 1.0], [-1.0, -0.2]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, -0.2, 1e-5]],
    ],
)
def test_nash_of_gradients_that_cancel_is_capped_says_so_and_harms_nobody(g, caplog):
    g = torch.tensor(g, dtype=torch.float64)
    length = g.norm(dim=1)
    found = bargain(g @ g.T)
    assert found.ridge > 0
    assert bool(torch.isfinite(found.alpha).all())
    assert bool((found.alpha > 0).all())
    assert float((found.alpha * length).max()) <= MAX_WEIGHT * (1 + 1e-12)
    assert found.residual < 1e-8
    gain = (
        g @ (found.alpha @ g)
    ) / length  # along each task's direction, where an uncapped solution has 1 / beta
    assert float(gain.min()) > -1e-3
    nash = NashMTL(len(g))
    for _ in range(2):
        nash.observe(g @ g.T, generator())
    (record,) = caplog.records
    assert "task gradients depend on each other: ridge" in record.message
    assert nash.report()["nash/ridge"] == found.ridge


def test_nash_of_equal_gradients_is_their_direction():
    alpha = bargain(torch.full((3, 3), 4.0)).alpha
    assert alpha.tolist() == pytest.approx([1 / (2 * math.sqrt(3))] * 3, rel=1e-6)


def test_what_is_said_once_is_said_for_each_thing(caplog):
    nash = NashMTL(2)
    nash.observe(torch.diag(torch.tensor([1.0, 0.0])).double(), generator())
    nash.observe(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double(), generator())
    assert ["1 tasks have no gradient" in r.message for r in caplog.records] == [True, False]
    assert "ridge" in caplog.records[1].message


def test_nash_without_some_gradients():
    found = bargain(torch.diag(torch.tensor([4.0, 0.0, 1.0])))
    assert found.alpha.tolist() == pytest.approx([0.5, 0.5, 1.0])
    assert found.idle == 1
    assert bargain(torch.zeros(3, 3)).alpha.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="not finite"):
        bargain(torch.tensor([[1.0, math.nan], [math.nan, 1.0]]))


def test_nash_refreshes_when_due_and_keeps_its_weights_between():
    nash = NashMTL(2, refresh_every=3)
    wanted = []
    for step in range(7):
        wanted.append(nash.wants_gradients())
        if wanted[-1]:
            nash.observe((step + 1.0) * torch.eye(2, dtype=torch.float64), generator())
    assert wanted == [True, False, False, True, False, False, True]
    assert nash.weights().tolist() == pytest.approx([0.5 / math.sqrt(7)] * 2)
    other = NashMTL(2, refresh_every=3)
    other.load_state_dict(nash.state_dict())
    assert [other.wants_gradients() for _ in range(3)] == [nash.wants_gradients() for _ in range(3)]
    assert torch.equal(other.weights(), nash.weights())
    with pytest.raises(ValueError, match="refresh_every must be at least 1"):
        NashMTL(2, refresh_every=0)


def test_pcgrad_of_two_tasks_in_closed_form():
    """Opposed: g_1 - (g_1 g_2 / |g_2|^2) g_2 + g_2 - (g_1 g_2 / |g_1|^2) g_1; agreeing: their sum; both divided by k."""
    pcgrad = PCGrad(2)
    g = torch.tensor([[1.0, 0.0], [-1.0, 2.0]], dtype=torch.float64)
    pcgrad.observe(g @ g.T, generator())
    torch.testing.assert_close(
        pcgrad.weights() @ g, torch.tensor([1 - 1 / 5 + 0.0, 2 / 5 + 2.0], dtype=torch.float64) / 2
    )
    pcgrad.observe(torch.tensor([[1.0, 0.3], [0.3, 1.0]]).double(), generator())
    assert pcgrad.weights().tolist() == [0.5, 0.5]
    pcgrad.observe(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double(), generator())
    assert pcgrad.weights().tolist() == [1.0, 1.0]  # (g_1 + g_2 + g_2 + g_1) / 2 = 0
    pcgrad.observe(torch.diag(torch.tensor([0.0, 1.0])).double(), generator())
    assert pcgrad.weights().tolist() == [0.5, 0.5]


@pytest.mark.parametrize("k", [2, 3, 5])
def test_pcgrad_agrees_with_projecting_vectors(k):
    g = torch.randn(k, 7, generator=torch.Generator().manual_seed(k), dtype=torch.float64) - 0.5
    g[0] = -g.sum(0)
    pcgrad = PCGrad(k)
    pcgrad.observe(g @ g.T, generator())
    draw, total = generator(), torch.zeros(7, dtype=torch.float64)
    for i in range(k):
        mine = g[i].clone()
        for j in torch.randperm(k, generator=draw).tolist():
            if j != i and mine @ g[j] < 0:
                mine -= (mine @ g[j]) / (g[j] @ g[j]) * g[j]
        total += mine
    torch.testing.assert_close(pcgrad.weights() @ g, total / k)


def test_pcgrad_agrees_with_torchjd_for_two_tasks():
    """For two tasks the order does not matter; TorchJD sums where ANT takes the mean."""
    for seed in range(5):
        g = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        pcgrad = PCGrad(2)
        pcgrad.observe(g @ g.T, generator())
        torch.testing.assert_close(2 * pcgrad.weights() @ g, torchjd.PCGrad()(g))


def test_nash_improves_every_task_where_the_mean_gradient_does_not():
    g = torch.tensor([[10.0, 0.0], [-1.0, 0.2]], dtype=torch.float64)
    assert float(g[1] @ g.mean(0)) < 0
    update = bargain(g @ g.T).alpha @ g
    assert (g @ update).tolist() == pytest.approx((1 / bargain(g @ g.T).alpha).tolist())
    assert bool((g @ update > 0).all())


def test_uncertainty_rests_where_every_task_weighs_the_same():
    losses = torch.tensor([4.0, 0.04, 1e-4])
    uncertainty = Uncertainty(3, lr=0.025)
    assert uncertainty.weights().tolist() == pytest.approx([0.5 / 3] * 3)
    optimizer = torch.optim.AdamW(uncertainty.param_groups(), lr=1e-9)
    for _ in range(3000):
        optimizer.zero_grad()
        uncertainty.objective(losses).backward()
        optimizer.step()
    torch.testing.assert_close(
        uncertainty.log_variance.detach(), (losses / 3).log(), rtol=0, atol=0.02
    )
    torch.testing.assert_close(
        uncertainty.weights().detach() * losses, torch.full((3,), 0.5), rtol=0.03, atol=0
    )


def test_uncertainty_objective_is_the_published_one():
    uncertainty = Uncertainty(2)
    with torch.no_grad():
        uncertainty.log_variance.copy_(torch.tensor([0.3, -1.0]))
    losses = torch.tensor([2.0, 5.0])
    expected = sum(0.5 * (math.exp(-s) * loss / 2 + s) for s, loss in ((0.3, 2.0), (-1.0, 5.0)))
    assert uncertainty.objective(losses).item() == pytest.approx(expected)
    (group,) = uncertainty.param_groups()
    assert (group["lr"], group["weight_decay"]) == (0.025, 0.0)
    with pytest.raises(ValueError, match="lr must be positive"):
        Uncertainty(2, lr=0)


def test_uncertainty_of_a_task_without_a_loss_stays_finite():
    uncertainty = Uncertainty(2)
    with torch.no_grad():
        uncertainty.log_variance.copy_(torch.tensor([-1000.0, 0.0]))
    objective = uncertainty.objective(torch.tensor([0.0, 1.0]))
    objective.backward()
    assert math.isfinite(objective.item())
    assert bool(torch.isfinite(uncertainty.log_variance.grad).all())


def test_learned_weights_are_trained_without_further_ado():
    class Learned(Equal):
        def __init__(self, num_tasks):
            super().__init__(num_tasks)
            self.raw = torch.nn.Parameter(torch.zeros(num_tasks))

        def weights(self):
            return self.raw.softmax(0)

    learned = Learned(2)
    (group,) = learned.param_groups()
    learned.objective(torch.tensor([1.0, 3.0])).backward()
    assert group["params"][0].grad.tolist() == pytest.approx([-0.5, 0.5])
    assert Equal(2).param_groups() == []


def test_equal_is_the_mean():
    assert float(Equal(4).objective(torch.tensor([1.0, 2.0, 3.0, 6.0]))) == 3
    assert not Equal(4).wants_gradients()
    with pytest.raises(ValueError, match="at least one task"):
        Equal(0)
