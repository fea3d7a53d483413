import pytest
import torch

from deme.merging.combine import Merge, merge_tensor
from deme.merging.methods.linear import linear
from deme.merging.methods.ties import ties
from deme.merging.methods.weighted_sum import weighted_sum
from deme.merging.search.grid import GridSearch
from deme.system.errors import BadConfig


def tensors(n=4, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    base = torch.randn(5, 7, generator=g).to(dtype)
    experts = [base + 0.1 * torch.randn(5, 7, generator=g).to(dtype) for _ in range(n)]
    base[0, 0] = experts[0][0, 0] = -0.0  # a sum with zero would lose the sign
    return experts, base


def bits(tensor):
    return tensor.view(torch.int32)


def test_zero_weights_give_the_base_bit_for_bit():
    experts, base = tensors()
    assert torch.equal(bits(weighted_sum(experts, base, [0.0] * 4)), bits(base))


@pytest.mark.parametrize("index", range(4))
def test_a_one_hot_weight_gives_its_expert_bit_for_bit(index):
    experts, base = tensors()
    weights = [float(i == index) for i in range(4)]
    assert torch.equal(bits(weighted_sum(experts, base, weights)), bits(experts[index]))


def test_merging_is_linear_in_the_weights():
    experts, base = tensors(dtype=torch.float64)
    u, v = [0.3, -0.2, 1.4, 0.5], [0.1, 0.9, -0.3, 2.0]
    mixed = weighted_sum(experts, base, [0.25 * a + 0.75 * b for a, b in zip(u, v, strict=True)])
    parts = 0.25 * weighted_sum(experts, base, u) + 0.75 * weighted_sum(experts, base, v)
    torch.testing.assert_close(mixed, parts, rtol=1e-12, atol=1e-13)


def test_it_is_the_papers_sum_of_task_vectors():
    experts, base = tensors(dtype=torch.float64)
    weights = [0.1, 0.1, 0.2, 0.5]
    expected = base + sum(w * (e - base) for w, e in zip(weights, experts, strict=True))
    torch.testing.assert_close(
        weighted_sum(experts, base, weights), expected, rtol=1e-12, atol=1e-13
    )


def test_projections_merge_to_the_identity_plus_weighted_changes():
    eye = torch.eye(6, dtype=torch.float64)
    changes = torch.randn(3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    merged = weighted_sum([eye + c for c in changes], eye, [0.5, 0.2, 0.7])
    torch.testing.assert_close(merged, eye + 0.5 * changes[0] + 0.2 * changes[1] + 0.7 * changes[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_merged_in_float32(dtype):
    experts, base = tensors(dtype=dtype)
    weights = [0.3, 0.3, 0.3, 0.3]
    merged = merge_tensor(lambda e, b, _: weighted_sum(e, b, weights), experts, base)
    exact = weighted_sum([e.double() for e in experts], base.double(), weights)
    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged.double(), exact, rtol=1e-5, atol=1e-6)


def test_integer_tensors_stay_the_bases():
    base = torch.tensor([3, 4])
    assert torch.equal(merge_tensor(lambda e, b, _: e[0], [torch.tensor([5, 6])], base), base)


def test_grid_holds_every_combination_once():
    grid = GridSearch(0, 1, 0.25)
    vectors = []
    grid.run(lambda weights: vectors.append(tuple(weights)), [0.25] * 4)
    assert grid.count(4) == len(vectors) == len(set(vectors)) == 5**4
    assert vectors[0] == (0, 0, 0, 0)
    assert vectors[-1] == (1, 1, 1, 1)
    assert GridSearch(-0.2, 0.1, 0.1).values[-1] == 0.1  # -0.2 + 3 * 0.1 lies above it
    assert GridSearch(0, 1, 0.1).values == pytest.approx([i / 10 for i in range(11)])


@pytest.mark.parametrize(
    "arguments", [{"step": 0}, {"low": 2}, {"step": -1}, {"high": float("inf")}]
)
def test_impossible_grids_are_refused(arguments):
    with pytest.raises(ValueError, match="low <= high and step > 0"):
        GridSearch(**arguments)


def test_weights_are_scaled_to_a_sum():
    """By hand: a sum of 2 goes twice as far as the mean of the experts, in their proportions."""
    experts, base = tensors(2, torch.float64)
    merge = Merge(weighted_sum, 2, weights="uniform", sum=2)
    assert merge.weights == [1, 1]
    mean = (experts[0] + experts[1]) / 2
    torch.testing.assert_close(merge(experts, base), base + 2 * (mean - base))
    given = Merge(weighted_sum, 2, [0.1, 0.5], {"conv.*": 0.5}, sum=3.0)
    assert given.weights == pytest.approx([0.5, 2.5])
    assert given.weights_for("conv.bias") == [0.5, 0.5]  # as given
    assert Merge(weighted_sum, 2, weights=[0.1, 0.5]).weights == [0.1, 0.5]
    assert Merge(weighted_sum, 2, weights=[0.1, 0.5], sum=0).weights == [0, 0]


@pytest.mark.parametrize(
    ("method", "weights", "total", "message"),
    [
        (weighted_sum, [1, -1], 2, "the sum 0, whatever"),
        (weighted_sum, [1, 1], float("nan"), "must be a finite number"),
        (weighted_sum, [1, 1], "two", "must be a finite number"),
        (ties, "uniform", 2, "merge=ties has no weights of any sum"),
        (linear, "uniform", 2, "merge=linear has no weights of any sum"),
    ],
)
def test_a_sum_that_weights_cannot_have_is_refused(method, weights, total, message):
    with pytest.raises(BadConfig, match=message):
        Merge(method, 2, weights=weights, sum=total)
