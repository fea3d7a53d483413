"""The merge in memory: what it is equal to, how exactly, and what a model that shares it sees (docs/method.md#reweighting)."""

import copy

import pytest
import torch

from deme.merging.combine import Merge
from deme.merging.live import REFRESH, LiveMerge
from deme.merging.methods.ties import ties
from deme.merging.methods.weighted_sum import weighted_sum
from deme.merging.similarity import block_of
from tests.models import tiny

SHAPES = {
    "down.0.weight": (8, 4, 3, 3),
    "mid.bias": (8,),
    "down.0.bias": (4,),
    "mid.weight": (5, 8),
    "down.1.scale": (),
}
UNIT = 2.0**-24  # half a unit in the last place of float32, relative


def models(num_experts=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    base = {name: torch.randn(shape, generator=g) for name, shape in SHAPES.items()}
    base["mid.bias"][:4] = torch.tensor([0.0, -0.0, 1e-30, -0.0])
    base["steps"] = torch.tensor(7)
    experts = []
    for _ in range(num_experts):
        expert = {
            k: v + 0.3 * torch.randn(v.shape, generator=g)
            for k, v in base.items()
            if v.is_floating_point()
        }
        experts.append({**expert, "steps": torch.tensor(100)})
    return base, experts


def merged(live):
    """The merge as named tensors."""
    found = {name: torch.empty(shape) for name, shape in SHAPES.items()}
    live.write_into(found)
    return found


def bits(tensor):
    return tensor.contiguous().view(torch.int32)


def same_bits(found, expected):
    return all(torch.equal(bits(found[name]), bits(expected[name])) for name in SHAPES)


def oracle(base, experts, weights):
    """base + sum w tau in float64, one weight an expert."""
    return {
        n: base[n].double()
        + sum(w * (e[n].double() - base[n].double()) for w, e in zip(weights, experts, strict=True))
        for n in SHAPES
    }


def bound(base, experts, weights):
    """Rounding of one merge: N sums, and of each w, tau and w tau; of values up to |theta| + sum |w| (|theta_i| + |theta|)."""
    return {
        n: (len(experts) + 3)
        * UNIT
        * (
            base[n].abs()
            + sum(
                abs(w) * (e[n].abs() + base[n].abs()) for w, e in zip(weights, experts, strict=True)
            ).double()
        )
        for n in SHAPES
    }


def test_weights_of_zero_are_the_base_bit_for_bit_signs_of_zero_included():
    base, experts = models()
    live = LiveMerge(base, experts)
    assert same_bits(merged(live), base)
    for start in ([0.4, -0.2, 1.3], [0.0, 0.7, 0.0]):
        live.merge(start)
        assert not same_bits(merged(live), base)
        live.merge([0.0, 0.0, 0.0])
        assert same_bits(merged(live), base)


def test_and_so_are_those_of_one_block_while_others_have_weights():
    base, experts = models(2)
    live = LiveMerge(base, experts, block_of)
    assert live.blocks == ["down.0", "mid", "down.1"]
    live.merge([0.5, 0.0, 0.25, 0.0, 1.5, 0.0])
    live.merge([0.5, 0.0, 0.0, 0.0, 1.5, 0.0])  # one expert's weight, back to 0 in one block
    found = merged(live)
    assert all(torch.equal(bits(found[n]), bits(base[n])) for n in SHAPES if block_of(n) == "mid")
    assert not torch.equal(found["down.0.bias"], base["down.0.bias"])


@pytest.mark.parametrize(
    "weights", [[0.3, 0.5, 0.2], [1.0, 1.0, 1.0], [-0.2, 2.0, 0.0], [0.0, 1.0, 0.0]]
)
def test_it_is_the_weighted_sum_to_rounding(weights):
    base, experts = models()
    live = LiveMerge(base, experts)
    live.merge(weights)
    found, exact, error = (
        merged(live),
        oracle(base, experts, weights),
        bound(base, experts, weights),
    )
    for name in SHAPES:
        assert ((found[name].double() - exact[name]).abs() <= error[name]).all(), name
        other = weighted_sum([expert[name] for expert in experts], base[name], weights)
        torch.testing.assert_close(found[name], other, rtol=1e-5, atol=1e-6)


def test_blocks_have_weights_of_their_own():
    base, experts = models(2)
    live = LiveMerge(base, experts, block_of)
    rows = {"down.0": [0.3, 0.9], "mid": [-0.1, 0.4], "down.1": [1.0, 0.0]}
    live.merge([w for block in live.blocks for w in rows[block]])
    found = merged(live)
    for name in SHAPES:
        expected = oracle(base, experts, rows[block_of(name)])[name].float()
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


def test_no_rounding_is_left_from_what_was_merged_before():
    """A thousand changes of single weights: bit for bit the merge of a new start, so a killed search goes on as if undisturbed."""
    base, experts = models()
    live, g, weights = (
        LiveMerge(base, experts),
        torch.Generator().manual_seed(1),
        [0.25, 0.25, 0.25],
    )
    for step in range(1000):
        index = int(torch.randint(3, (), generator=g))
        weights[index] = round(float(torch.rand((), generator=g)) * 2.2 - 0.2, 3)
        live.merge(weights)
        if step % 50 == 49:
            anew = LiveMerge(base, experts)
            anew.merge(weights)
            assert same_bits(merged(live), merged(anew)), step
    exact, error = oracle(base, experts, weights), bound(base, experts, weights)
    assert all(((merged(live)[n].double() - exact[n]).abs() <= error[n]).all() for n in SHAPES)


def test_a_model_that_shares_it_changes_with_it_and_nothing_is_copied():
    models = [tiny(seed) for seed in range(3)]
    base, *experts = (dict(model.named_parameters()) for model in models)
    live, shown = LiveMerge(base, experts), copy.deepcopy(models[0])
    tensors = dict(shown.named_parameters())
    live.share_with(tensors)
    place = live.merged.untyped_storage().data_ptr()
    assert all(tensor.untyped_storage().data_ptr() == place for tensor in tensors.values())
    x, t = (
        torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.tensor([3, 700]),
    )
    with torch.no_grad():
        for weights, model in (
            ([0.0, 0.0], models[0]),
            ([1.0, 0.0], models[1]),
            ([0.0, 1.0], models[2]),
        ):
            live.merge(weights)
            torch.testing.assert_close(shown(x, t), model(x, t), rtol=1e-4, atol=1e-5)
        live.write_into(tensors)
    assert all(tensor.untyped_storage().data_ptr() == place for tensor in tensors.values())


def test_write_into_reaches_tensors_that_were_moved():
    models = [
        tiny(seed, block_out_channels=[8, 8], in_channels=3, out_channels=3) for seed in range(2)
    ]
    base, expert = (dict(model.named_parameters()) for model in models)
    live, shown = LiveMerge(base, [expert]), copy.deepcopy(models[0])
    live.share_with(dict(shown.named_parameters()))
    shown.to(memory_format=torch.channels_last)  # convolutions get new places
    tensors = dict(shown.named_parameters())
    place = live.merged.untyped_storage().data_ptr()
    moved = [n for n, tensor in tensors.items() if tensor.untyped_storage().data_ptr() != place]
    assert 0 < len(moved) < len(tensors)
    live.merge([1.0])
    assert torch.equal(tensors[moved[0]], base[moved[0]])
    live.write_into(tensors)
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, expert[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("blockwise", [False, True])
def test_slopes_are_autograds(blockwise, monkeypatch):
    """dL/dw of a curved float64 function of the merged tensors; pieces smaller than a tensor change nothing."""
    base, experts = models(2)
    live = LiveMerge(base, experts, block_of if blockwise else lambda _: "")
    rows = len(live.blocks)
    weights = torch.linspace(-0.3, 1.1, 2 * rows, dtype=torch.float64, requires_grad=True)
    whole = {}
    for name in SHAPES:
        row = weights.reshape(rows, 2)[live.blocks.index(block_of(name)) if blockwise else 0]
        whole[name] = base[name].double() + sum(
            w * (e[name].double() - base[name].double()) for w, e in zip(row, experts, strict=True)
        )
        whole[name].retain_grad()
    sum((tensor.sin() * (tensor + 1) ** 2).sum() for tensor in whole.values()).backward()
    gradients = {name: tensor.grad.float() for name, tensor in whole.items()}
    gradients["down.0.weight"] = gradients["down.0.weight"].contiguous(
        memory_format=torch.channels_last
    )
    slopes = live.gradient(gradients)
    assert slopes == pytest.approx(weights.grad.tolist(), rel=1e-5)
    monkeypatch.setattr("deme.merging.live.CHUNK_ELEMENTS", 7)
    assert live.gradient(gradients) == pytest.approx(slopes, rel=1e-5)
    without = live.gradient(
        {**gradients, "mid.bias": None, "mid.weight": None, "down.0.bias": None}
    )
    assert without != pytest.approx(slopes, rel=1e-2)


def test_integers_are_left_alone():
    base, experts = models()
    live = LiveMerge(base, experts)
    live.merge([1.0, 1.0, 1.0])
    tensors = {**{n: torch.zeros(s) for n, s in SHAPES.items()}, "steps": torch.tensor(7)}
    live.share_with(tensors)
    live.write_into(tensors)
    assert tensors["steps"] == 7
    assert len(live.merged) == sum(base[n].numel() for n in SHAPES)


def test_any_method_merges_tensor_by_tensor_and_the_weighted_sum_is_exact_afterwards():
    base, experts = models()
    live, weights = LiveMerge(base, experts), [0.5, 0.3, 0.2]
    live.merge(weights)
    expected = {name: tensor.clone() for name, tensor in merged(live).items()}
    live.merge_by(Merge(ties, 3, [1.0, 0.5, 0.0], density=0.4, trim="tensor"))
    found = merged(live)
    for name in SHAPES:
        other = ties(
            [e[name] for e in experts], base[name], [1.0, 0.5, 0.0], density=0.4, trim="tensor"
        )
        torch.testing.assert_close(found[name], other, rtol=1e-4, atol=1e-5)
    assert not same_bits(found, expected)
    live.merge(weights)
    assert same_bits(merged(live), expected)


def test_an_incremental_merge_drifts_no_further_than_its_bound_and_starts_anew():
    base, experts = models()
    live, fresh = LiveMerge(base, experts), LiveMerge(base, experts)
    live.incremental = True
    draw, weights, made_anew = torch.Generator().manual_seed(1), [0.3, 0.1, -0.2], 0
    live.merge(weights)
    for step in range(1000):
        weights[step % 3] = float(2.2 * torch.rand((), generator=draw) - 0.2)
        live.merge(weights)
        fresh.merge(weights)
        largest = max(
            float((base[n].abs() + 4 * sum((e[n] - base[n]).abs() for e in experts)).max())
            for n in SHAPES
        )
        error = float((live.merged - fresh.merged).abs().max())
        assert error <= REFRESH * 2 * UNIT * largest
        made_anew += torch.equal(live.merged, fresh.merged)
    assert made_anew >= 1000 // REFRESH
    live.merge([0.0, 0.0, 0.0])
    assert same_bits(merged(live), base)
    live.merge([0.5, 0.5, 0.5])  # all three change: from the base
    fresh.merge([0.5, 0.5, 0.5])
    assert torch.equal(live.merged, fresh.merged)
