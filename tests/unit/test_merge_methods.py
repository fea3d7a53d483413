import importlib
import inspect
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from deme.merging import methods
from deme.merging.combine import merge_tensor
from deme.merging.geometry import CHUNK_ELEMENTS, gram
from deme.merging.magnitudes import cutoffs
from deme.merging.methods.dare import dare
from deme.merging.methods.iso_c import iso_c
from deme.merging.methods.linear import linear
from deme.merging.methods.model_stock import model_stock
from deme.merging.methods.slerp import slerp, spherical_mean
from deme.merging.methods.ties import ties
from deme.merging.methods.tsv import tsv
from deme.merging.methods.weighted_sum import weighted_sum
from deme.system.errors import BadConfig
from deme.system.paths import conf_dir

FILES = sorted(Path(methods.__file__).parent.glob("[!_]*.py"))
METHODS = {
    f.stem: getattr(importlib.import_module(f"deme.merging.methods.{f.stem}"), f.stem)
    for f in FILES
}
OPTIONS = {
    f.stem: yaml.safe_load(f.read_text()) for f in sorted((conf_dir() / "merge").glob("*.yaml"))
}

float64 = {"rtol": 1e-12, "atol": 1e-13}


def tensors(n=4, shape=(5, 7), dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)
    common = torch.randn(shape, generator=g, dtype=torch.float64)
    changes = [
        0.1 * (i + 1) * (common + torch.randn(shape, generator=g, dtype=torch.float64))
        for i in range(n)
    ]
    return [base + change.to(dtype) for change in changes], base


def task_vectors(experts, base):
    return np.stack([(expert - base).numpy().ravel() for expert in experts])


def change(merged, base):
    return (merged - base).numpy().ravel()


def from_vectors(*vectors):
    """Experts around a base of zeros."""
    experts = [torch.tensor(vector, dtype=torch.float64) for vector in vectors]
    return experts, torch.zeros_like(experts[0])


def apply(method, experts, base, **scalars):
    prepared = (
        method.prepare(lambda: iter([("a", experts, base)]), **scalars) if method.prepare else {}
    )
    return method(experts, base, **scalars, **prepared, **({"name": "a"} if method.named else {}))


def bits(tensor):
    return tensor.view({torch.float32: torch.int32, torch.float64: torch.int64}[tensor.dtype])


# What is in the folders


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_described_and_has_an_option(name):
    method = METHODS[name]
    assert method.__doc__.strip()
    assert method.paper.strip()
    assert isinstance(method.elementwise, bool)
    assert isinstance(method.named, bool)
    assert method.named == ("name" in inspect.signature(method).parameters)
    assert method.of in ("experts", "checkpoints")
    assert any(
        spec["_target_"] == f"deme.merging.methods.{name}.{name}" for spec in OPTIONS.values()
    )


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_explains_its_keys_which_are_the_methods_with_its_defaults(option):
    lines = (conf_dir() / "merge" / f"{option}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ")
    (target,) = (i for i, line in enumerate(lines) if line.startswith("_target_: "))
    for above, line in itertools.pairwise(lines[target:]):
        assert "#" in line or above.startswith("#"), "a comment on its line or above it"
    spec = dict(OPTIONS[option])
    parameters = inspect.signature(METHODS[spec.pop("_target_").rpartition(".")[2]]).parameters
    prepared = {"thresholds"} if option == "ties" else set()
    assert ("sum" in spec) == (option in ("uniform", "weighted_sum", "dare"))
    assert spec.pop("sum", None) is None  # a rule for the weights, whatever the method
    assert spec.keys() == parameters.keys() - {"experts", "base", "name"} - prepared
    assert {k: v for k, v in spec.items() if k != "weights"} == {
        k: parameters[k].default for k in spec if k != "weights"
    }
    assert spec.get("weights", "uniform") in ("uniform", "ones")


# What all have in common


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"dare"}))
def test_the_order_of_the_experts_does_not_matter(name):
    method = METHODS[name]
    experts, base = tensors()
    weights, order = [0.1, 0.4, 0.2, 0.3], [2, 0, 3, 1]
    takes = "weights" in inspect.signature(method).parameters
    one = apply(method, experts, base, **({"weights": weights} if takes else {}))
    other = apply(
        method,
        [experts[i] for i in order],
        base,
        **({"weights": [weights[i] for i in order]} if takes else {}),
    )
    torch.testing.assert_close(one, other, **float64)
    assert not torch.equal(one, base)


@pytest.mark.parametrize("name", ["weighted_sum", "ties", "dare", "slerp"])
def test_weights_of_zero_give_the_base(name):
    experts, base = tensors()
    assert torch.equal(apply(METHODS[name], experts, base, weights=[0.0] * 4), base)


@pytest.mark.parametrize("name", METHODS)
def test_float32_stays_float32_and_close_to_float64(name):
    experts, base = tensors(dtype=torch.float32)
    takes = "weights" in inspect.signature(METHODS[name]).parameters
    given = {"weights": [0.1, 0.4, 0.2, 0.3]} if takes else {}
    single = apply(METHODS[name], experts, base, **given)
    double = apply(METHODS[name], [e.double() for e in experts], base.double(), **given)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, double.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_experts_that_never_moved_give_the_base(name):
    _, base = tensors()
    takes = "weights" in inspect.signature(METHODS[name]).parameters
    merged = apply(
        METHODS[name], [base.clone()] * 2, base, **({"weights": [0.25, 0.75]} if takes else {})
    )
    torch.testing.assert_close(merged, base, **float64)


@pytest.mark.parametrize(
    ("method", "scalars", "message"),
    [
        (ties, {"density": 0.0}, "merge.density=0.0"),
        (ties, {"density": 1.5}, "merge.density=1.5"),
        (ties, {"density": float("nan")}, "merge.density=nan"),
        (ties, {"trim": "row"}, "merge.trim=row is unknown; allowed: model, tensor"),
        (ties, {"weights": [-0.1, 1.0]}, "0 or more"),
        (dare, {"drop": 1.0}, "merge.drop=1.0"),
        (dare, {"drop": -0.1}, "merge.drop=-0.1"),
        (slerp, {"weights": [-0.1, 1.0]}, "0 or more"),
        (linear, {"weights": [0.5, 0.4]}, r"\[0.5, 0.4\] sum to 0.9"),
        (linear, {"weights": [0.0, 0.0]}, "sum to 0"),
    ],
)
def test_impossible_settings_are_refused(method, scalars, message):
    experts, base = tensors(n=2)
    with pytest.raises(BadConfig, match=message):
        apply(method, experts, base, **{"weights": [0.5, 0.5], **scalars})


# Uniform and sum: the weighted sum with other words


def test_uniform_is_the_mean_of_the_experts_and_sum_the_sum_of_their_task_vectors():
    experts, base = tensors()
    assert OPTIONS["uniform"]["weights"] == "uniform"
    assert OPTIONS["sum"]["weights"] == "ones"
    torch.testing.assert_close(
        weighted_sum(experts, base, [0.25] * 4), torch.stack(experts).mean(0), **float64
    )
    total = base + torch.stack([e - base for e in experts]).sum(0)
    torch.testing.assert_close(weighted_sum(experts, base, [1.0] * 4), total, **float64)


# TIES


def ties_oracle(vectors, weights, cut):
    kept = np.where(np.abs(vectors) >= np.asarray(cut)[:, None], vectors, 0)
    elected = np.sign(weights @ kept)
    agrees = (np.sign(kept) == elected) & (kept != 0)
    mass = weights @ agrees
    return np.divide(weights @ (kept * agrees), mass, out=np.zeros_like(mass), where=mass > 0)


@pytest.mark.parametrize("weights", [[0.25] * 4, [0.1, 0.7, 0.0, 0.4]])
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_trims_elects_and_averages(weights, density):
    experts, base = tensors()
    vectors = task_vectors(experts, base)
    cut = np.sort(np.abs(vectors), axis=1)[:, -round(density * vectors.shape[1])] * (1 - 1e-6)
    expected = 1.5 * ties_oracle(vectors, np.array(weights), cut)
    for trim in ("tensor", "model"):  # the same where the model is one tensor
        merged = apply(ties, experts, base, weights=weights, density=density, scale=1.5, trim=trim)
        np.testing.assert_allclose(change(merged, base), expected, atol=1e-13)


def test_ties_keeps_the_largest_entries_of_the_whole_model():
    sizes = {
        "small": ((40, 5), 0.01),
        "big": ((9,), 3.0),
        "empty": ((0,), 1.0),
        "middle": ((7, 8, 3), 0.2),
    }
    model = {}
    for seed, (name, (shape, size)) in enumerate(sizes.items()):
        experts, base = tensors(3, shape, torch.float32, seed)
        model[name] = ([base + size * (e - base) for e in experts], base)
    given = ties.prepare(
        lambda: ((n, *both) for n, both in model.items()), weights=[1.0] * 3, density=0.3, scale=1.0
    )
    vectors = np.concatenate([task_vectors(*both) for both in model.values()], axis=1)
    assert vectors.shape[1] == 377
    cut = np.sort(np.abs(vectors), axis=1)[:, -113]  # 0.3 * 377 = 113.1
    assert given == {"thresholds": cut.tolist()}
    for experts, base in model.values():
        expected = ties_oracle(task_vectors(experts, base), np.ones(3), cut)
        merged = ties(experts, base, [1.0] * 3, 0.3, **given)
        np.testing.assert_allclose(change(merged, base), expected, rtol=1e-4, atol=1e-6)
    assert (
        np.count_nonzero(change(ties(*model["big"], [1.0] * 3, 0.3, **given), model["big"][1])) == 9
    )
    assert ties.prepare(lambda: iter([]), density=0.3, trim="tensor") == {}


def test_cutoffs_tell_neighbouring_floats_apart():
    ladder = (torch.arange(1000, dtype=torch.int32) + 0x3F7FFE0C).view(
        torch.float32
    )  # 500 floats on each side of 1
    shuffled = ladder[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    signed = shuffled * torch.tensor([1.0, -1.0]).repeat(500)
    for kept in (1, 2, 499, 500, 501, 999, 1000):
        assert (
            cutoffs(
                lambda: iter([[signed[:300], -signed[:300]], [signed[300:], -signed[300:]]]),
                kept / 1000,
            )
            == [float(ladder[-kept])] * 2
        )


def test_ties_keeps_all_entries_that_equal_the_last_kept_and_at_least_one():
    experts, base = from_vectors([3.0, -2.0, 2.0, 2.0, 1.0])
    for trim in ("tensor", "model"):
        merged = apply(ties, experts, base, weights=[1.0], density=0.4, trim=trim)
        assert merged.tolist() == [3, -2, 2, 2, 0]
        assert apply(ties, experts, base, weights=[1.0], density=0.01, trim=trim).tolist() == [
            3,
            0,
            0,
            0,
            0,
        ]
        assert (
            apply(ties, experts, base, weights=[1.0], density=1.0, trim=trim).tolist()
            == experts[0].tolist()
        )


def test_ties_at_density_one_with_agreeing_signs_is_the_mean():
    experts, base = tensors()
    experts = [
        base + (e - base).abs() * torch.tensor([1.0, -1, 1, -1, 1])[:, None] for e in experts
    ]
    merged = apply(ties, experts, base, weights=[0.25] * 4, density=1.0)
    torch.testing.assert_close(merged, torch.stack(experts).mean(0), **float64)


def test_ties_keeps_the_base_where_signs_balance():
    experts, base = from_vectors([1.0, 2.0, 0.0], [-1.0, -1.0, 0.0])
    assert apply(ties, experts, base, weights=[0.5, 0.5], density=1.0).tolist() == [0, 2, 0]


def test_ties_without_its_first_pass_is_refused():
    experts, base = tensors()
    with pytest.raises(ValueError, match=r"ties\.prepare"):
        ties(experts, base, [0.25] * 4)


# DARE


def test_dare_without_dropping_is_the_weighted_sum():
    experts, base = tensors()
    weights = [0.3, -0.2, 1.1, 0.5]
    merged = dare(experts, base, weights, drop=0.0, name="a")
    assert torch.equal(bits(merged), bits(weighted_sum(experts, base, weights)))


def test_dare_is_unbiased():
    experts, base = tensors()
    weights, drop, count = [0.3, -0.2, 1.1, 0.5], 0.7, 400
    mean = torch.stack(
        [dare(experts, base, weights, drop, seed, name="a") for seed in range(count)]
    ).mean(0)
    spread = (
        sum((w * (e - base)) ** 2 for w, e in zip(weights, experts, strict=True))
        * drop
        / (1 - drop)
    )
    score = (mean - weighted_sum(experts, base, weights)) / (spread / count).sqrt()
    assert float(score.abs().max()) < 4
    assert float(score.std()) == pytest.approx(1, abs=4 / (2 * score.numel()) ** 0.5)


def test_dare_drops_the_share_it_says_and_rescales_the_rest():
    experts, base = tensors(1, (100, 100))
    merged = dare(experts, base, [1.0], drop=0.2, name="a")
    dropped = merged == base
    torch.testing.assert_close(
        merged[~dropped], (base + (experts[0] - base) / 0.8)[~dropped], **float64
    )
    assert abs(int(dropped.sum()) - 2000) < 4 * (10_000 * 0.2 * 0.8) ** 0.5


def test_dares_masks_follow_from_seed_name_and_position_alone():
    experts, base = tensors(1)

    def mask(seed=0, name="a", position=0, dtype=torch.float64):
        torch.rand(3)  # the global generator has no say
        others = [base.to(dtype)] * position + [experts[0].to(dtype)]
        weights = [1.0] * (position + 1)
        return dare(others, base.to(dtype), weights, 0.5, seed, name=name) == base.to(dtype)

    assert torch.equal(mask(), mask())
    assert torch.equal(mask(), mask(dtype=torch.float32))
    assert not any(torch.equal(mask(), other) for other in (mask(seed=1), mask(name="b")))
    two = [
        (dare([experts[0]] * 2, base, w, 0.5, name="a") == base) for w in ([1.0, 0.0], [0.0, 1.0])
    ]
    assert torch.equal(two[0], mask())
    assert not torch.equal(two[1], mask())


# SLERP


def slerp_of_two(one, two, s):
    u, v = one / np.linalg.norm(one), two / np.linalg.norm(two)
    angle = np.arccos(u @ v)
    direction = (np.sin((1 - s) * angle) * u + np.sin(s * angle) * v) / np.sin(angle)
    return ((1 - s) * np.linalg.norm(one) + s * np.linalg.norm(two)) * direction


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.3, 1.2], [2.0, 0.01], [1.0, 0.0], [0.0, 3.0]])
@pytest.mark.parametrize("sign", [1, -1])
def test_slerp_of_two_is_the_two_vector_formula(weights, sign):
    experts, base = tensors(2)
    experts[1] = base + sign * (experts[1] - base)  # angles below and above 90 degrees
    expected = slerp_of_two(*task_vectors(experts, base), weights[1] / sum(weights))
    np.testing.assert_allclose(change(slerp(experts, base, weights), base), expected, atol=1e-12)
    scaled = change(slerp(experts, base, weights, scale=0.7), base)
    np.testing.assert_allclose(scaled, 0.7 * expected, atol=1e-12)


@pytest.mark.parametrize("n", [3, 8])
def test_slerp_of_more_is_where_the_tangents_to_all_directions_cancel(n):
    experts, base = tensors(n)
    weights = np.random.default_rng(0).random(n)
    vectors = task_vectors(experts, base)
    lengths = np.linalg.norm(vectors, axis=1)
    merged = change(slerp(experts, base, weights.tolist()), base)
    assert np.linalg.norm(merged) == pytest.approx(weights @ lengths / weights.sum())
    mean, units = merged / np.linalg.norm(merged), vectors / lengths[:, None]
    angles = np.arccos(units @ mean)
    tangents = (units - np.outer(units @ mean, mean)) * (angles / np.sin(angles))[:, None]
    assert angles.max() < np.pi / 2  # so that there is one such point
    np.testing.assert_allclose(weights @ tangents, 0, atol=1e-7)


def test_slerp_of_equal_weights_on_orthogonal_axes_is_the_diagonal():
    experts, base = from_vectors(*np.eye(5))
    np.testing.assert_allclose(
        slerp(experts, base, [3.0] * 5).numpy(), np.full(5, 5**-0.5), rtol=1e-12
    )


@pytest.mark.parametrize("tilt", [0.0, 1e-12, 1e-8, 1e-4])
def test_slerp_of_nearly_parallel_vectors_is_their_mean(tilt):
    experts, base = from_vectors([1.0, 0.0], [3.0, 3 * tilt], [2.0, -tilt])
    merged = slerp(experts, base, [0.2, 0.3, 0.5])
    np.testing.assert_allclose(
        merged.numpy(), [2.1, 2.1 * (0.3 - 0.25) * tilt], rtol=1e-7, atol=1e-14
    )


@pytest.mark.parametrize(
    ("vectors", "weights", "expected"),
    [
        ([[2.0, 0.0], [-2.0, 0.0]], [0.5, 0.5], [0.0, 0.0]),  # opposite
        ([[2.0, 0.0], [-2.0, 1e-9]], [0.75, 0.25], [1.0, 2.5e-10]),  # as good as opposite
        ([[1.0, 0.0], [-1.0, 0.026]], [0.505, 0.495], [0.01, 0.01287]),
        (
            [[0.96, 0.28], [0.96, -0.28], [-1.0, 0.0]],
            [0.45, 0.45, 0.1],
            [0.764, 0.0],
        ),  # one opposite the others' mean
        (
            [[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]],
            [1.0, 1.0, 1.0],
            [0.0, 0.0],
        ),  # three that cancel
        ([[0.0, 4.0], [0.0, 0.0]], [0.25, 0.75], [0.0, 1.0]),  # zero: shorter, not turned
        ([[0.0, 0.0], [0.0, 0.0]], [0.25, 0.75], [0.0, 0.0]),
        ([[1.0, 0.0], [0.0, 0.0]], [0.0, 1.0], [0.0, 0.0]),  # the only one that moved has no weight
    ],
)
def test_slerp_without_a_direction_is_the_weighted_mean(vectors, weights, expected):
    experts, base = from_vectors(*vectors)
    np.testing.assert_allclose(
        slerp(experts, base, weights).numpy(), expected, rtol=1e-12, atol=1e-15
    )


def test_slerp_of_vectors_all_around_has_bounded_coefficients():
    random, found = np.random.default_rng(0), 0
    for n, size in [(3, 2), (4, 2), (4, 3), (8, 3)] * 200:
        units = random.standard_normal((n, size))
        units = torch.tensor(units / np.linalg.norm(units, axis=1, keepdims=True))
        mean = spherical_mean(
            (units @ units.T).clamp(-1, 1), torch.tensor(random.dirichlet(np.ones(n)))
        )
        if mean is not None:
            found += 1
            assert float((mean @ units).norm()) == pytest.approx(1, abs=1e-9)
            assert float(mean.abs().sum()) < 150
    assert found > 600


def test_slerp_far_apart_is_no_less_exact_in_float32():
    experts, base = tensors(2, dtype=torch.float32)
    experts[1] = base - 2 * (experts[0] - base)
    experts[1][0] += 0.1  # near to opposite, where coefficients are large
    merged = merge_tensor(lambda e, b, _: slerp(e, b, [0.5, 0.5]), experts, base)
    one, two = task_vectors([e.double() for e in experts], base.double())
    assert -0.9995 < one @ two / np.linalg.norm(one) / np.linalg.norm(two) < -0.95
    np.testing.assert_allclose(
        merged.numpy().ravel(), base.numpy().ravel() + slerp_of_two(one, two, 0.5), atol=2e-6
    )


# Model Stock


def test_model_stock_goes_as_far_as_the_mean_cosine_says():
    experts, base = tensors(4)
    vectors = task_vectors(experts, base)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = np.mean([units[i] @ units[j] for i in range(4) for j in range(i)])
    expected = 4 * cosine / (1 + 3 * cosine) * vectors.mean(0)
    np.testing.assert_allclose(change(model_stock(experts, base), base), expected, atol=1e-13)


def test_model_stock_of_two_is_the_papers_two_cos_over_one_plus_cos():
    experts, base = from_vectors([1.0, 0.0], [0.5, 0.75**0.5])  # 60 degrees apart
    expected = 2 / 3 * (experts[0] + experts[1]) / 2
    torch.testing.assert_close(model_stock(experts, base), expected, **float64)


def test_model_stock_of_equal_experts_is_their_mean_and_of_unrelated_ones_the_base():
    experts, base = tensors(1)
    torch.testing.assert_close(model_stock(experts * 3, base), experts[0], **float64)
    opposed = [[1.0, 0], [-0.5, 0.9]], [[1.0, 2], [-1, -2]]
    for vectors in (
        [[2.0, 0, 0], [0, 1.0, 0], [0, 0, 3.0]],
        *opposed,
        [[1.0, 2], [0, 0]],
        [[0.0], [0]],
    ):
        unrelated, zeros = from_vectors(*vectors)
        assert torch.equal(model_stock(unrelated, zeros), zeros)


def test_model_stock_needs_two_experts():
    experts, base = tensors(1)
    with pytest.raises(BadConfig, match="at least 2 experts, got 1"):
        model_stock(experts, base)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (4, 3, 2, 2)])
def test_iso_c_is_the_sum_with_equal_singular_values(shape):
    experts, base = tensors(3, shape)
    total = task_vectors(experts, base).sum(0).reshape(shape[0], -1)
    u, s, vh = np.linalg.svd(total, full_matrices=False)
    found = change(iso_c(experts, base, 0.5), base).reshape(total.shape)
    np.testing.assert_allclose(found, 0.5 * s.mean() * u @ vh, atol=1e-12)


def polar(matrix):
    """The polar factor M (M^T M)^(-1/2), by eigenvalues instead of an SVD."""
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    return matrix @ vectors @ np.diag(values**-0.5) @ vectors.T


@pytest.mark.parametrize("shape", [(6, 9), (9, 7), (6, 3, 2, 2)])
def test_tsv_is_algorithm_1_of_its_paper(shape):
    experts, base = tensors(3, shape)
    parts = [
        np.linalg.svd(v.reshape(shape[0], -1), full_matrices=False)
        for v in task_vectors(experts, base)
    ]
    kept = min(parts[0][0].shape[0], parts[0][2].shape[1]) // 3
    left = polar(np.hstack([u[:, :kept] for u, _, _ in parts]))
    right = polar(np.hstack([vh[:kept].T for _, _, vh in parts]))
    values = np.concatenate([s[:kept] for _, s, _ in parts])
    found = change(tsv(experts, base, 0.7), base).reshape(shape[0], -1)
    np.testing.assert_allclose(found, 0.7 * left @ np.diag(values) @ right.T, atol=1e-11)


def test_tsv_of_one_expert_is_the_expert_and_of_orthogonal_ones_their_sum():
    (expert,), base = tensors(1)
    torch.testing.assert_close(tsv([expert], base), expert, **float64)
    (one, *_), base = tensors(1, (6, 9))
    u, s, vh = torch.linalg.svd(one - base, full_matrices=False)
    mean = base + (u[:, :3] * s[:3]) @ vh[:3]  # two equal experts share every direction
    torch.testing.assert_close(tsv([one, one], base), mean, rtol=1e-9, atol=1e-9)
    experts, zeros = from_vectors(np.diag([3.0, 0, 0, 0]), np.diag([0, 2.0, 0, 0]))
    torch.testing.assert_close(tsv(experts, zeros), experts[0] + experts[1], **float64)


@pytest.mark.parametrize("method", [iso_c, tsv])
def test_methods_of_matrices_take_the_mean_of_other_tensors(method):
    experts, base = tensors(3, (8,))
    expected = base + 0.5 * (torch.stack(experts) - base).mean(0)
    torch.testing.assert_close(method(experts, base, 0.5), expected, **float64)
    same = torch.randn(5, 7)
    assert torch.equal(method([same] * 3, same), same)


@pytest.mark.parametrize("method", [iso_c, tsv])
def test_a_low_rank_change_keeps_its_rank_although_the_weights_are_rounded(method):
    draw = torch.Generator().manual_seed(5)
    base = torch.randn(40, 60, generator=draw)
    changes = [
        1e-3 * torch.randn(40, 4, generator=draw) @ torch.randn(4, 60, generator=draw)
        for _ in range(3)
    ]
    exact = method(changes, torch.zeros_like(base)).double()
    whole = [base + each for each in changes]
    rounded = method(whole, base).double() - base.double()
    assert int(torch.linalg.matrix_rank(exact, rtol=1e-3)) == 12
    assert float((rounded - exact).norm() / exact.norm()) < 1e-3
    large = [base + 30 * each for each in changes]  # stored in half precision
    half = method([e.bfloat16().float() for e in large], base.bfloat16().float())
    change = half.double() - base.bfloat16().double()
    assert 0 < int(torch.linalg.matrix_rank(change, rtol=1e-3)) <= 12  # no direction of noise


def test_inner_products_of_big_float32_tensors_are_those_of_float64():
    experts, base = tensors(2, (3 * CHUNK_ELEMENTS + 5,), torch.float32)
    vectors = np.stack([e.numpy().astype(np.float64) - base.numpy() for e in experts])
    np.testing.assert_allclose(gram(experts, base).numpy(), vectors @ vectors.T, rtol=1e-12)
    assert gram([base, base], base).tolist() == [[0, 0], [0, 0]]


# Linear


def test_linear_is_the_combination_of_checkpoints_whatever_the_base():
    experts, base = tensors()
    weights = [1.7, -0.9, 0.5, -0.3]
    expected = np.einsum("i,ijk->jk", weights, torch.stack(experts).numpy())
    np.testing.assert_allclose(linear(experts, base, weights).numpy(), expected, atol=1e-13)
    assert torch.equal(linear(experts, base + 1, weights), linear(experts, base, weights))
    assert linear.of == "checkpoints"


@pytest.mark.parametrize("index", range(4))
def test_linear_with_a_one_hot_weight_gives_its_checkpoint_bit_for_bit(index):
    experts, base = tensors(dtype=torch.float32)
    experts[index][0, 0] = -0.0
    weights = [float(i == index) for i in range(4)]
    assert torch.equal(bits(linear(experts, base, weights)), bits(experts[index]))


def test_linear_forgives_the_rounding_of_a_sum():
    experts, base = tensors(3)
    merged = linear(experts, base, [1 / 3] * 3)
    torch.testing.assert_close(merged, torch.stack(experts).mean(0), **float64)
    linear(experts, base, [0.1, 0.2, 0.7 + 9e-7])
    with pytest.raises(BadConfig, match="sum to 1"):
        linear(experts, base, [0.1, 0.2, 0.7 + 2e-6])
