"""Merging models on disk: what the plan refuses, and what the result is, piece by piece, in any precision, of any family."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMPipeline, UNet2DConditionModel, UNet2DModel

from deme.builders.checkpoints import copy_other_parts, not_merged, open_checkpoint
from deme.merging import stream
from deme.merging.combine import Merge, check_weights
from deme.merging.methods.linear import linear
from deme.merging.methods.model_stock import model_stock
from deme.merging.methods.ties import ties
from deme.merging.methods.weighted_sum import weighted_sum
from deme.merging.plan import PROJECTIONS, order_experts, plan_merge
from deme.merging.stream import find_nan, merge_folder, share_kept_by_rounding
from deme.models.layout import UNET
from deme.models.loading import load_pretrained
from deme.system import read_json, tensors, write_json
from deme.system.errors import BadConfig, WorkFailed
from tests.models import moved, tiny

WEIGHTS = [0.7, -0.1, 0.4]
RANGES = [[0, 300], [300, 700], [700, 1000]]


@pytest.fixture
def folder(tmp_path):
    """A base and three experts, saved as training saves them."""
    tiny().save(tmp_path / "base", tiny().state_dict(), {})
    for index, bounds in enumerate(RANGES):
        model = moved(tiny(), index, 0.02)
        about = {"range": bounds, "num_timesteps": 1000, "base": "hash"}
        model.save(tmp_path / str(index), model.state_dict(), about)
    return tmp_path


def planned(folder, names="012", base="base", **more):
    return plan_merge(
        open_checkpoint(folder / base),
        [open_checkpoint(folder / name) for name in names],
        "hash",
        **more,
    )


def state(folder, file=UNET):
    return tensors.TensorFile(folder / file).read_all()


def rewritten(folder, **replaced):
    """Replace tensors of a model on disk; None takes one away."""
    kept = {n.replace(".", "_"): n for n in state(folder)}
    found = state(folder) | {kept.get(name, name): value for name, value in replaced.items()}
    tensors.save(folder / UNET, {name: value for name, value in found.items() if value is not None})


def exact(folder, weights=WEIGHTS, names="012"):
    base, *experts = (
        {n: v.double() for n, v in state(folder / name).items()} for name in ("base", *names)
    )
    return {
        n: base[n] + sum(w * (e[n] - base[n]) for w, e in zip(weights, experts, strict=True))
        for n in base
    }


@pytest.mark.parametrize("piece", [7, 64, 1 << 18])
def test_pieces_of_any_size_give_the_weighted_sum(piece, folder, monkeypatch):
    monkeypatch.setattr(stream, "CHUNK_ELEMENTS", piece)
    merge_folder(planned(folder), Merge(weighted_sum, 3, WEIGHTS), folder / "merged")
    found = state(folder / "merged")
    for name, value in exact(folder).items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-6, atol=1e-7)
    merge_folder(planned(folder), Merge(weighted_sum, 3, [0.0] * 3), folder / "zero")
    assert (folder / "zero" / UNET).read_bytes() == (folder / "base" / UNET).read_bytes()
    for index in range(3):
        one_hot = [float(i == index) for i in range(3)]
        merge_folder(planned(folder, "210"), Merge(weighted_sum, 3, one_hot), folder / "hot")
        assert (folder / "hot" / UNET).read_bytes() == (folder / str(index) / UNET).read_bytes()


@pytest.mark.parametrize("method", [weighted_sum, ties, model_stock])
def test_the_order_of_the_folders_does_not_matter(method, folder):
    written = []
    for names in ("012", "201"):
        more = {} if method is model_stock else {"weights": [0.5, 0.2, 0.3]}
        merge_folder(planned(folder, names), Merge(method, 3, **more), folder / names)
        written.append((folder / names / UNET).read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("accumulate", [torch.float32, torch.float64])
def test_half_precision_on_disk_is_merged_as_precisely_as_float32(kind, accumulate, folder):
    for name in ("base", *"012"):
        tensors.save(folder / name / UNET, {n: v.to(kind) for n, v in state(folder / name).items()})
    merge = Merge(weighted_sum, 3, WEIGHTS)
    merge_folder(planned(folder), merge, folder / "same", accumulate, kind)
    merge_folder(planned(folder), merge, folder / "single", accumulate)
    for name, value in exact(folder).items():
        single = state(folder / "single")[name]
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), value, rtol=1e-6, atol=1e-6)
        assert torch.equal(state(folder / "same")[name], single.to(kind))


@pytest.mark.parametrize("method", [weighted_sum, ties])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32])
def test_the_share_of_a_change_that_survives_a_precision(kind, method, folder):
    merge = Merge(method, 3, "uniform")
    found = share_kept_by_rounding(planned(folder), merge, kind)
    merge_folder(planned(folder), merge, folder / "merged")
    base, merged = state(folder / "base"), state(folder / "merged")
    lost = sum(float((v.to(kind).float() - v).double().square().sum()) for v in merged.values())
    whole = sum(float((v - base[n]).double().square().sum()) for n, v in merged.items())
    assert found == pytest.approx(1 - lost / whole, abs=1e-9)
    assert (found == 1) == (kind == torch.float32)
    for name in "012":  # a change a hundred times smaller
        small = {n: base[n] + (v - base[n]) / 100 for n, v in state(folder / name).items()}
        tensors.save(folder / name / UNET, small)
    assert share_kept_by_rounding(planned(folder), merge, kind) <= found
    assert (
        share_kept_by_rounding(planned(folder), Merge(weighted_sum, 3, [0, 0, 0]), torch.float32)
        == 1
    )


def test_a_base_in_half_precision_has_experts_in_single(folder):
    tensors.save(folder / "base" / UNET, {n: v.half() for n, v in state(folder / "base").items()})
    merge_folder(planned(folder), Merge(weighted_sum, 3, WEIGHTS), folder / "merged")
    for name, value in exact(folder).items():
        found = state(folder / "merged")[name]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), value, rtol=1e-6, atol=1e-6)


def test_values_too_large_for_the_precision_on_disk_are_refused(folder):
    rewritten(folder / "0", conv_in_bias=torch.full_like(state(folder / "0")["conv_in.bias"], 1e6))
    with pytest.raises(WorkFailed, match=r"conv_in\.bias overflows float16"):
        merge_folder(
            planned(folder), Merge(weighted_sum, 3, WEIGHTS), folder / "merged", dtype=torch.float16
        )


def test_weights_by_name_hold_for_the_tensors_that_match_last(folder):
    by_name = {"down_blocks.*": 0.3, "down_blocks.0.*": [1, 0, 0]}
    merge = Merge(weighted_sum, 3, WEIGHTS, by_name)
    merge.check_names(planned(folder).names())
    merge_folder(planned(folder), merge, folder / "merged")
    found, kinds = state(folder / "merged"), set()
    for name, value in found.items():
        kind = (
            "first"
            if name.startswith("down_blocks.0.")
            else "down"
            if name.startswith("down_blocks.")
            else "rest"
        )
        weights = {"first": [1, 0, 0], "down": [0.3] * 3, "rest": WEIGHTS}[kind]
        kinds.add(kind)
        torch.testing.assert_close(
            value.double(), exact(folder, weights)[name], rtol=1e-6, atol=1e-7
        )
    assert kinds == {"first", "down", "rest"}
    with pytest.raises(
        BadConfig, match=r"no tensor matches downblocks.0\*; .*names begin with conv_in"
    ):
        Merge(weighted_sum, 3, WEIGHTS, {"downblocks.0*": 1}).check_names(planned(folder).names())


def test_ties_thresholds_are_those_of_the_whole_model(folder):
    merge_folder(
        planned(folder),
        Merge(ties, 3, "uniform", density=0.3),
        folder / "merged",
        torch.float64,
        torch.float64,
    )
    base, *experts = (
        {n: v.double() for n, v in state(folder / name).items()} for name in ("base", *"012")
    )
    vectors = [torch.cat([(e[n] - base[n]).flatten() for n in base]) for e in experts]
    kept = []
    for vector in vectors:
        cut = vector.abs().float().sort(descending=True).values[round(0.3 * len(vector)) - 1]
        kept.append(torch.where(vector.abs().float() >= cut, vector, 0))
    elected = sum(kept).sign()
    agree = [(k.sign() == elected) & (elected != 0) for k in kept]
    mean = sum(k * a for k, a in zip(kept, agree, strict=True)) / sum(agree).clamp(min=1)
    found = torch.cat([(state(folder / "merged")[n] - base[n]).flatten() for n in base])
    torch.testing.assert_close(found, mean, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_projections_that_only_some_models_have_are_a_mismatch(order, folder):
    models = [open_checkpoint(folder / name) for name in ("0", "1")]
    (unet,) = models[1].parts
    parts = {**models[1].parts, unet.with_name(PROJECTIONS): models[1].parts[unet]}
    models[1] = replace(models[1], placement="foldable", parts=parts)
    given = [models[index] for index in order]
    with pytest.raises(BadConfig, match="0 has no channel projections"):
        plan_merge(given[0], given, "", of_checkpoints=True)
    base = open_checkpoint(folder / "base")
    with pytest.raises(BadConfig, match="0 has no channel projections"):
        plan_merge(base, given, "")


def test_every_mismatch_of_every_model_is_listed_at_once(folder):
    rewritten(folder / "0", conv_in_weight=None, conv_in_bias=torch.zeros(3), extra=torch.zeros(2))
    write_json(
        folder / "1" / "deme.json", {"range": [250, 700], "num_timesteps": 1000, "base": "another"}
    )
    config = read_json(folder / "2" / "unet/config.json")
    write_json(folder / "2" / "unet/config.json", {**config, "layers_per_block": 7})
    noise = read_json(folder / "1" / "scheduler/scheduler_config.json")
    write_json(
        folder / "1" / "scheduler/scheduler_config.json",
        {**noise, "prediction_type": "v_prediction"},
    )
    with pytest.raises(BadConfig) as told:
        planned(folder)
    lines = str(told.value).splitlines()
    assert lines[0] == "these models cannot be merged, 7 mismatches:"
    for expected in (
        "the experts do not fit together: ranges [0, 300), [250, 700), [700, 1000) overlap at t = 250",
        f"{folder / '1'} was finetuned from another base: its deme.json names another, {folder / 'base'} is hash",
        f"{folder / '0' / UNET}: conv_in.weight is missing, in {folder / 'base'} [4, 1, 3, 3] float32",
        f"{folder / '0' / UNET}: conv_in.bias is [3] float32, in {folder / 'base'} [4] float32",
        f"{folder / '0' / UNET}: extra is [2] float32, in {folder / 'base'} missing",
        f"{folder / '2'} has layers_per_block=7 in its config.json, {folder / 'base'} has {config['layers_per_block']}",
        f"{folder / '1'} has prediction_type=v_prediction in its scheduler_config.json, {folder / 'base'} has epsilon",
    ):
        assert any(line.startswith(expected) for line in lines), (expected, lines)


def test_experts_of_two_bases_are_not_routed(folder):
    places = [folder / name for name in "012"]
    assert [expert.about["base"] for expert in order_experts(places)] == ["hash"] * 3
    write_json(
        folder / "1" / "deme.json", {"range": RANGES[1], "num_timesteps": 1000, "base": "another"}
    )
    with pytest.raises(BadConfig, match=r"name different bases"):
        order_experts(places)


def test_models_without_ranges_are_taken_in_the_given_order_but_not_some_with_and_some_without(
    folder,
):
    for name in "01":
        (folder / name / "deme.json").unlink()
    with pytest.raises(
        BadConfig, match=r"2 mismatches:\n.*0 names no timestep range in a deme.json, the others do"
    ):
        planned(folder)
    (folder / "2" / "deme.json").unlink()
    assert [model.folder.name for model in planned(folder, "201").experts] == ["2", "0", "1"]
    assert len(planned(folder, "00", of_checkpoints=True).experts) == 2
    with pytest.raises(BadConfig, match="nothing to merge"):
        planned(folder, "")


def test_checkpoints_of_one_range_are_combined_linearly(folder):
    for name in "012":
        write_json(
            folder / name / "deme.json", {"range": [0, 300], "num_timesteps": 1000, "base": name}
        )
    plan = planned(folder, of_checkpoints=True)
    merge_folder(plan, Merge(linear, 3, [0.5, 0.75, -0.25]), folder / "merged")
    states = [state(folder / name) for name in "012"]
    for name, value in state(folder / "merged").items():
        expected = (
            0.5 * states[0][name].double()
            + 0.75 * states[1][name].double()
            - 0.25 * states[2][name].double()
        )
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize("accumulate", [torch.float32, torch.float64])
def test_sums_of_models_in_pieces_of_any_size_are_those_in_memory(
    piece, accumulate, folder, monkeypatch
):
    monkeypatch.setattr(stream, "SUM_ELEMENTS", piece)
    plan, weights = planned(folder, of_checkpoints=True), [0.5, 0.75, -0.25]
    merge_folder(plan, Merge(linear, 3, weights), folder / "merged", accumulate)
    states = [state(folder / name) for name in "012"]
    for name, value in state(folder / "merged").items():
        given = [one[name].to(accumulate) for one in states]
        assert torch.equal(value, linear(given, given[0], weights).float())


def test_nan_in_a_sum_of_models_is_named(folder, monkeypatch):
    monkeypatch.setattr(stream, "SUM_ELEMENTS", 3)
    rewritten(folder / "2", conv_out_bias=torch.full((1,), torch.inf))
    plan = planned(folder, of_checkpoints=True)
    name = f"tensor conv_out.bias of {folder / '2' / UNET} holds NaN or infinite values"
    with pytest.raises(WorkFailed) as told:
        merge_folder(plan, Merge(linear, 3, [0.5, 0.75, -0.25]), folder / "merged")
    assert str(told.value).splitlines() == ["nothing was merged:", name]


def test_every_nan_is_named_and_nothing_is_written_of_it(folder):
    rewritten(folder / "0", conv_in_bias=torch.full((4,), torch.nan))
    rewritten(folder / "2", conv_out_bias=torch.full((1,), torch.inf))
    expected = [
        f"tensor conv_in.bias of {folder / '0' / UNET} holds NaN or infinite values",
        f"tensor conv_out.bias of {folder / '2' / UNET} holds NaN or infinite values",
    ]
    assert find_nan(planned(folder)) == expected
    for weights in (WEIGHTS, [0.0, 1.0, 0.0]):  # also where a weight of 0 would hide it
        with pytest.raises(WorkFailed) as told:
            merge_folder(planned(folder), Merge(weighted_sum, 3, weights), folder / "merged")
        assert str(told.value).splitlines() == ["nothing was merged:", *expected]


def test_costs_are_told_from_headers(folder):
    plan = planned(folder)
    size = sum(v.nbytes for v in state(folder / "base").values())
    assert (plan.bytes_read, plan.bytes_written(), plan.bytes_written(torch.float16)) == (
        4 * size,
        size,
        size // 2,
    )


def test_a_merged_folder_is_a_stock_pipeline(folder):
    plan = planned(folder)
    merge_folder(plan, Merge(weighted_sum, 3, WEIGHTS), folder / "merged")
    copy_other_parts(plan, folder / "merged", with_projections=True)
    pipeline, ours = (
        DDPMPipeline.from_pretrained(folder / "merged"),
        load_pretrained(str(folder / "merged")),
    )
    x, t = (
        torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.tensor([3, 900]),
    )
    with torch.no_grad():
        assert torch.equal(pipeline.unet(x, t).sample, ours(x, t))


def test_other_families_are_merged_and_their_other_parts_are_the_bases(tmp_path):
    small = {"sample_size": 8, "block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1, "cross_attention_dim": 8,
             "attention_head_dim": 4, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
             "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "in_channels": 4, "out_channels": 4}  # fmt: skip
    torch.manual_seed(0)
    base = UNet2DConditionModel(**small)
    for name in ("base", "0", "1"):
        moved(base, len(name) + ord(name[0]), 0.0 if name == "base" else 0.02).save_pretrained(
            tmp_path / name / "unet", max_shard_size="50KB"
        )
        write_json(tmp_path / name / "model_index.json", {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
                                                          "vae": ["diffusers", "AutoencoderKL"], "safety_checker": [None, None]})  # fmt: skip
        (tmp_path / name / "vae").mkdir()
        (tmp_path / name / "vae" / "diffusion_pytorch_model.safetensors").write_text(
            f"the VAE of {name}"
        )
    assert len(list((tmp_path / "0" / "unet").glob("*.safetensors"))) > 2
    plan = planned(tmp_path, "01")
    unknown = [
        f"{tmp_path / name} has no scheduler_config.json: its noise schedule and prediction type "
        "cannot be compared with those of the others"
        for name in ("base", "0", "1")
    ]
    assert list(not_merged(plan)) == unknown + [
        f"{tmp_path / name} has another vae than {tmp_path / 'base'}; the merge keeps the latter"
        for name in "01"
    ]
    merge_folder(plan, Merge(weighted_sum, 2, [0.25, 0.5]), tmp_path / "merged")
    copy_other_parts(plan, tmp_path / "merged", with_projections=True)
    merged, *parts = (
        UNet2DConditionModel.from_pretrained(tmp_path / n / "unet").state_dict()
        for n in ("merged", "base", "0", "1")
    )
    for name, value in merged.items():
        expected = (
            0.25 * parts[0][name].double()
            + 0.25 * parts[1][name].double()
            + 0.5 * parts[2][name].double()
        )
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
    kept = tmp_path / "merged" / "vae" / "diffusion_pytorch_model.safetensors"
    assert kept.read_text() == "the VAE of base"
    assert kept.samefile(
        tmp_path / "base" / "vae" / kept.name
    )  # gigabytes that every merge would hold again
    for name in "01":
        (tmp_path / name / "vae" / kept.name).write_text("the VAE of base")
    assert list(not_merged(plan)) == unknown
    assert json.loads((tmp_path / "merged" / "model_index.json").read_text())["vae"] == [
        "diffusers",
        "AutoencoderKL",
    ]
    UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
                down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2).save_pretrained(tmp_path / "other" / "unet")  # fmt: skip
    with pytest.raises(
        BadConfig,
        match=r"other has _class_name=UNet2DModel in its config.json, \S+base has UNet2DConditionModel",
    ):
        plan_merge(
            open_checkpoint(tmp_path / "base"), [open_checkpoint(tmp_path / "other")], "hash"
        )


def test_transformers_are_merged_too(tmp_path):
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=4, in_channels=4, num_layers=2, sample_size=8, num_embeds_ada_norm=10,
                                  norm_num_groups=4)  # fmt: skip
    for name in ("base", "0", "1"):
        moved(model, ord(name[0]), 0.0 if name == "base" else 0.02).save_pretrained(
            tmp_path / name
        )  # a bare network
    plan = planned(tmp_path, "01")
    merge_folder(
        plan,
        Merge(weighted_sum, 2, [0.25, 0.5], {"transformer_blocks.1.*": 0}),
        tmp_path / "merged",
    )
    copy_other_parts(plan, tmp_path / "merged", with_projections=True)
    merged, *parts = (
        DiTTransformer2DModel.from_pretrained(tmp_path / n).state_dict()
        for n in ("merged/transformer", "base", "0", "1")
    )
    for name, value in merged.items():
        weights = [1, 0, 0] if name.startswith("transformer_blocks.1.") else [0.25, 0.25, 0.5]
        expected = sum(w * part[name].double() for w, part in zip(weights, parts, strict=True))
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            [0.1],
            r"merge.weights needs 3 finite numbers, one per expert from low to high noise; got 1: \[0.1\]",
        ),
        ([0.1, float("nan"), 1], "needs 3 finite numbers"),
        ("equal", "merge.weights must be 'uniform' or 'ones' or a list of numbers, got 'equal'"),
        ([True, 1, 1], "must be 'uniform' or 'ones'"),
        (None, "got None"),
    ],
)
def test_slips_in_the_weights_are_told(given, message):
    with pytest.raises(BadConfig, match=message):
        check_weights(given, 3)
    assert check_weights("ones", 3) == [1, 1, 1]
    assert check_weights("uniform", 4) == [0.25] * 4
    with pytest.raises(BadConfig, match="merge=model_stock takes no weights"):
        Merge(model_stock, 3, [1, 1, 1])
