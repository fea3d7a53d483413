"""LoRA: what an adapter changes, its teacher, and its merges, against closed forms and full weights."""

import copy
import itertools
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from deme.builders.adapters import adapters_of, merge_adapters
from deme.builders.checkpoints import open_plan
from deme.diffusion import ShardedRandom, TimestepRange, generator
from deme.diffusion.timesteps import RangeSampler
from deme.evaluation.merged_model import LiveModel
from deme.merging.adapters import concatenate_factors, low_rank_factors, truncate_rank
from deme.merging.combine import Merge
from deme.merging.live import LiveMerge
from deme.merging.methods.dare import dare
from deme.merging.methods.iso_c import iso_c
from deme.merging.methods.model_stock import model_stock
from deme.merging.methods.slerp import slerp
from deme.merging.methods.ties import ties
from deme.merging.methods.tsv import tsv
from deme.merging.methods.weighted_sum import weighted_sum
from deme.merging.stream import merge_folder
from deme.methods.deme import DeMe
from deme.models.adapter import BaseOfAdapter, LoRA, factors
from deme.models.adapter_files import CONFIG, WEIGHTS, read_lora
from deme.models.adapter_sum import AdapterSum
from deme.models.adapter_tensors import delta_weight
from deme.models.loading import load_folder
from deme.runs import base_hash
from deme.system import BadConfig, WorkFailed
from tests.models import tiny

T = 1000


def drawn(*shape, key=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator("adapters", key), dtype=dtype)


def adapted(rank=3, alpha=None, key=None, **more):
    """A small model with an adapter; with a `key` its B is random, as after training."""
    model = tiny(**more)
    model.add_adapter(LoRA(rank, alpha))
    if key is not None:
        for number, (name, value) in enumerate(factors(model.network).items()):
            if ".lora_B." in name:
                value.data = 0.1 * drawn(*value.shape, key=f"{key}/{number}", dtype=torch.float32)
    return model


@pytest.fixture(scope="module")
def batch():
    x_t = drawn(4, 1, 8, 8, key="x", dtype=torch.float32)
    return x_t, torch.tensor([0, 250, 600, 999])


def test_a_new_adapter_changes_nothing_and_its_a_is_the_same_whatever_the_seed(batch):
    base, one, other = tiny(), adapted(), adapted(seed=5)
    assert torch.equal(base(*batch), one(*batch))
    ours, theirs = factors(one.network), factors(other.network)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not any(bool(v.any()) for n, v in ours.items() if ".lora_B." in n)
    downs = [v * v[0].numel() ** 0.5 for n, v in ours.items() if ".lora_A." in n]
    spread = float(torch.cat([v.detach().flatten() for v in downs]).std())
    assert spread == pytest.approx(3**-0.5, rel=0.05)  # uniform in +-1 / sqrt(inputs)


def test_only_the_adapter_is_trained_and_the_teacher_is_the_base_bit_for_bit(batch):
    base, model = tiny(), adapted(key="t")
    assert {name.rpartition(".lora_")[1] for name in model.trained_parameters()} == {".lora_"}
    weights = torch.ones(T, dtype=torch.float64)
    method = DeMe(weights, RangeSampler(TimestepRange(0, T), T), 1.0)
    method.prepare(lambda: BaseOfAdapter(model), "cpu")
    optimizer = torch.optim.SGD(model.trained_parameters().values(), lr=0.1)
    before = {n: p.clone() for n, p in model.named_parameters()}
    for step in range(3):
        terms = method.losses(
            model, drawn(6, 1, 8, 8, key=step, dtype=torch.float32), ShardedRandom(generator(step), 6, 0, 6)
        )  # fmt: skip
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        assert torch.equal(method.teacher(*batch), base(*batch))
        assert float(terms["consistency"].detach()) > 0
    trained = model.trained_parameters()
    for name, value in model.named_parameters():
        assert (value.grad is not None) == (name in trained)
        assert torch.equal(value, before[name]) == (name not in trained)
    method.finish()
    next(p for n, p in model.named_parameters() if n not in trained).data += 1e-3
    with pytest.raises(WorkFailed, match="teacher changed"):
        method.finish()


def test_switching_off_keeps_dropout_out_of_the_teacher(batch):
    base, model = tiny(dropout=0.5), adapted(key="d", dropout=0.5)
    model.train()
    assert torch.equal(BaseOfAdapter(model)(*batch), base.eval()(*batch))
    assert any(p.training for p in model.modules() if isinstance(p, torch.nn.Dropout))


@pytest.mark.parametrize("alpha", [None, 1.0, 12.0])
def test_what_is_written_is_what_is_read_whatever_alpha_is(alpha, batch, tmp_path):
    model = adapted(3, alpha, key="w")
    folder = tmp_path / "adapter"
    base = tmp_path / "base"
    tiny().save(base, tiny().state_dict(), {})
    model.save(folder, model.state_dict(), {"base_model": str(base)})
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, "deme.json", WEIGHTS]
    again = load_folder(str(folder))
    torch.testing.assert_close(again(*batch), model(*batch), rtol=1e-5, atol=1e-6)
    assert (read_lora(folder).rank, read_lora(folder).alpha) == (3, 3)
    fused = copy.deepcopy(again)
    fused.fuse_adapter()
    assert fused.state_dict().keys() == tiny().state_dict().keys()
    torch.testing.assert_close(fused(*batch), again(*batch), rtol=1e-4, atol=1e-5)


def test_peft_reads_it_into_the_plain_network(batch, tmp_path):
    import peft

    model = adapted(key="p")
    model.save(tmp_path / "a", model.state_dict(), {})
    network = tiny().network
    stored = json.loads((tmp_path / "a" / CONFIG).read_text())
    settings = {k: stored[k] for k in ("r", "lora_alpha", "target_modules")}
    peft.inject_adapter_in_model(peft.LoraConfig(**settings), network)
    state = load_file(tmp_path / "a" / WEIGHTS)
    found = peft.set_peft_model_state_dict(
        network, {name.removeprefix("unet."): value for name, value in state.items()}
    )
    assert not found.unexpected_keys
    torch.testing.assert_close(network(*batch).sample, model(*batch), rtol=1e-5, atol=1e-6)


SHAPES = [((3, 20), (16, 3)), ((3, 5, 3, 3), (8, 3, 1, 1))]


@pytest.mark.parametrize("shapes", SHAPES, ids=["linear", "convolution"])
def test_concatenated_factors_are_the_weighted_sum_of_changes_exactly(shapes):
    parts = [(drawn(*shapes[0], key=("a", i)), drawn(*shapes[1], key=("b", i))) for i in range(4)]
    weights = [0.5, -0.2, 1.5, 0.25]
    expected = sum(w * delta_weight(p) for w, p in zip(weights, parts, strict=True))
    found = concatenate_factors(parts, weights)
    assert len(found[0]) == 12
    torch.testing.assert_close(delta_weight(found), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shapes", SHAPES, ids=["linear", "convolution"])
@pytest.mark.parametrize("rank", [1, 3, 5, 8])
def test_the_reduced_rank_is_the_best_approximation_of_the_whole_change(shapes, rank):
    """Eckart and Young: no matrix of this rank is nearer than the truncated SVD of the change."""
    parts = [(drawn(*shapes[0], key=("a", i)), drawn(*shapes[1], key=("b", i))) for i in range(3)]
    factors_of_all = concatenate_factors(parts, [0.3, 0.3, 0.4])
    whole = delta_weight(factors_of_all)
    merged = truncate_rank(factors_of_all, rank)
    flat = whole.reshape(len(whole), -1)
    u, values, vh = torch.linalg.svd(flat, full_matrices=False)
    best = (u[:, :rank] * values[:rank]) @ vh[:rank]
    torch.testing.assert_close(
        delta_weight(merged.factors).reshape(flat.shape), best, rtol=1e-9, atol=1e-9
    )
    assert merged.norm == pytest.approx(float(flat.square().sum()))
    assert merged.dropped == pytest.approx(float(values[rank:].square().sum()), abs=1e-12)
    assert len(merged.factors[0]) == rank
    again = low_rank_factors(whole, rank)
    torch.testing.assert_close(
        delta_weight(again.factors), delta_weight(merged.factors), rtol=1e-9, atol=1e-9
    )
    low = truncate_rank(tuple(f.float() for f in factors_of_all), rank)  # what runs compute in
    torch.testing.assert_close(
        delta_weight(low.factors).double(), delta_weight(merged.factors), rtol=1e-4, atol=1e-5
    )


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """A base and three LoRA experts on disk, and the same experts as whole models."""
    place = tmp_path_factory.mktemp("experts")
    base = place / "base"
    tiny().save(base, tiny().state_dict(), {})
    found = base_hash({"path": str(base)}, base)
    lora, full = [], []
    for i, (low, high) in enumerate([(0, 300), (300, 600), (600, 1000)]):
        about = {"range": [low, high], "num_timesteps": T, "base": found, "base_model": str(base)}
        model = adapted(2 + i, key=f"e{i}")
        model.save(place / f"lora{i}", model.state_dict(), about)
        model.fuse_adapter()
        model.save(place / f"full{i}", model.state_dict(), about)
        lora.append(place / f"lora{i}")
        full.append(place / f"full{i}")
    return base, lora, full


MERGES = {
    "weighted_sum": lambda: Merge(weighted_sum, 3, [0.4, 0.4, 0.7]),
    "by_name": lambda: Merge(weighted_sum, 3, "uniform", {"mid_block.*": [1.0, 0.0, 0.0]}),
    "ties": lambda: Merge(ties, 3, "uniform", trim="tensor"),
    "ties_model": lambda: Merge(ties, 3, "uniform"),
    "dare": lambda: Merge(dare, 3, "uniform"),
    "model_stock": lambda: Merge(model_stock, 3),
    "slerp": lambda: Merge(slerp, 3, "uniform"),
    "tsv": lambda: Merge(tsv, 3),
    "iso_c": lambda: Merge(iso_c, 3),
}


@pytest.mark.parametrize("name", MERGES)
def test_every_merge_of_adapters_is_that_of_whole_models_as_far_as_the_rank_goes(
    name, experts, tmp_path
):
    base, lora, full = experts
    option = {"path": str(base)}
    plan, whole = open_plan(option, lora), open_plan(option, full)
    assert len(adapters_of(plan)) == 3
    assert not adapters_of(whole)
    merge_folder(plan, MERGES[name](), tmp_path / "fused")  # the adapters, fused
    merge_folder(whole, MERGES[name](), tmp_path / "whole")
    fused, expected = (
        load_weights(tmp_path / each / "unet" / "diffusion_pytorch_model.safetensors")
        for each in ("fused", "whole")
    )
    start = tiny().network.state_dict()
    exact = name not in ("dare", "ties", "ties_model")  # which depend on order, or on what is 0
    for tensor, value in expected.items():
        if exact or not torch.equal(value, start[tensor]):
            torch.testing.assert_close(fused[tensor], value, rtol=1e-4, atol=1e-5)
    ranks = [1, 2, 9] if name in ("weighted_sum", "by_name") else [4]
    errors = []
    for rank in ranks:
        merge_adapters(plan, MERGES[name](), "svd", rank, place := tmp_path / f"svd{rank}")
        files = place / "deme.json"
        files.write_text(json.dumps({"base_model": str(base)}))
        model = load_folder(str(place))
        model.fuse_adapter()
        found = model.network.state_dict()
        error = sum(float((found[n] - v).square().sum()) for n, v in fused.items())
        size = sum(float((v - start[n]).square().sum()) for n, v in fused.items())
        errors.append(round(error / size, 9))
    assert errors == sorted(errors, reverse=True)
    if len(ranks) > 1:
        assert errors[-1] < 1e-10  # 2 + 3 + 4: all of it
        assert errors[0] > 1e-3
    if name == "weighted_sum":
        merged = merge_adapters(plan, MERGES[name](), "svd", 2, tmp_path / "again")
        assert merged.dropped == pytest.approx(errors[1], rel=1e-3)
        merged = merge_adapters(plan, MERGES[name](), "cat", None, tmp_path / "cat")
        assert (merged.rank, merged.dropped) == (9, 0)


@pytest.mark.parametrize("granularity", ["model", "block", "tensor"])
def test_a_search_sets_the_weights_of_adapters_as_of_whole_models(experts, batch, granularity):
    """Predictions and gradients are those of the fused experts; no copy of the base is made."""
    base, lora, _ = experts
    option = {"path": str(base)}
    uniform = {"_target_": "deme.merging.methods.weighted_sum.weighted_sum", "weights": "uniform"}
    sparse = lora[1].parent / f"sparse_{granularity}"
    shutil.copytree(lora[1], sparse)  # an expert without some of the layers
    state = load_file(sparse / WEIGHTS)
    save_file({name: value for name, value in state.items() if "mid_block" not in name}, sparse / WEIGHTS)  # fmt: skip
    config = json.loads((sparse / CONFIG).read_text())
    config["target_modules"] = [n for n in config["target_modules"] if "mid_block" not in n]
    (sparse / CONFIG).write_text(json.dumps(config))
    paths = [lora[0], sparse, lora[2]]
    one = LiveModel(open_plan(option, paths), uniform, granularity, "cpu")
    fused = [load_folder(str(path)) for path in paths]
    for i, model in enumerate(fused):
        model.fuse_adapter()
        model.save(sparse / str(i), model.state_dict(), json.loads((paths[i] / "deme.json").read_text()))  # fmt: skip
    other = LiveModel(open_plan(option, [sparse / str(i) for i in range(3)]), uniform, granularity, "cpu")  # fmt: skip
    assert isinstance(one.live, AdapterSum)
    assert isinstance(other.live, LiveMerge)
    assert set(one.live.blocks) <= set(other.live.blocks)
    rows = {block: drawn(3, key=(granularity, block)).tolist() for block in other.live.blocks}
    for live in (one, other):
        live.set_weights([weight for block in live.live.blocks for weight in rows[block]])
    assert not torch.allclose(one.model(*batch), tiny()(*batch), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(one.model(*batch), other.model(*batch), rtol=1e-4, atol=1e-5)
    found = []
    for live in (one, other):
        live.differentiate(True)
        live.model(*batch).square().sum().backward()
        slopes = torch.tensor(live.gradient()).reshape(-1, 3)
        found.append({block: slopes[i] for i, block in enumerate(live.live.blocks)})
        live.differentiate(False)
    assert all(parameter.grad is None for parameter in one.model.parameters())
    for block, slopes in found[0].items():
        torch.testing.assert_close(slopes, found[1][block], rtol=1e-3, atol=1e-3)
    for index in range(3):
        one.set_expert(index)
        torch.testing.assert_close(one.model(*batch), fused[index](*batch), rtol=1e-4, atol=1e-5)


def load_weights(file):

    return load_file(file)


def test_the_sum_of_factors_is_not_the_sum_of_changes(experts):
    """What peft's linear combination does, with experts of one rank: wrong by more than the change itself."""
    parts = [
        (drawn(3, 20, key=("a", i)), drawn(16, 3, key=("b", i))) for i in range(4)
    ]  # fmt: skip
    right = sum(0.25 * delta_weight(p) for p in parts)
    down, up = sum(0.5 * a for a, _ in parts), sum(0.5 * b for _, b in parts)
    wrong = delta_weight((down, up))
    assert float((wrong - right).norm() / right.norm()) > 0.5


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (lambda: LoRA(0), "adapter.rank must be at least 1, got 0"),
        (lambda: LoRA(4, -1.0), "adapter.alpha must be null"),
        (lambda: LoRA(400), r"adapter.rank=400 is above \d+, the rank that layer .*\ntype: adapter.rank="),
        (lambda: LoRA(2, targets=["to_nowhere"]), "no layer's name ends with 'to_nowhere'; layers end with .*conv1"),
    ],
)  # fmt: skip
def test_impossible_adapters_are_refused(lora, message):
    with pytest.raises(BadConfig, match=message):
        tiny().add_adapter(lora())


def test_a_second_adapter_and_projections_are_refused():
    model = adapted()
    with pytest.raises(BadConfig, match="already has an adapter"):
        model.add_adapter(LoRA(2))
    with pytest.raises(BadConfig, match="has an adapter"):
        model.add_projections()
    projected = tiny()
    projected.add_projections()
    with pytest.raises(BadConfig, match="already has channel projections"):
        projected.add_adapter(LoRA(2))


def test_an_adapter_of_another_network_is_refused(experts, tmp_path):
    base, lora, _ = experts
    other = tmp_path / "other"
    wider = tiny(block_out_channels=[8, 8], norm_num_groups=4)
    wider.save(other, wider.state_dict(), {})
    with pytest.raises(BadConfig, match=r"does not fit .*other:\n.*in the base it has \["):
        open_plan({"path": str(other)}, lora)
    changed = tmp_path / "changed"
    model = tiny(seed=9)
    model.save(changed, model.state_dict(), {})
    with pytest.raises(BadConfig, match="was finetuned from another base"):
        open_plan({"path": str(changed)}, lora)
    assert all(a.rank(layer) for a, layer in itertools.product(adapters_of(open_plan({"path": str(base)}, lora)), ["mid_block.resnets.0.conv1"]))  # fmt: skip
