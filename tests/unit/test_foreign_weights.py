"""Weights as other programs write them: read for what they are, or refused by what they are and the command that helps."""

import ast
import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from deme.builders.checkpoints import copy_other_parts, open_checkpoint, open_plan
from deme.builders.compute import Compute
from deme.builders.data import load_data
from deme.data.digits import load_digits
from deme.evaluation.sources import load_source
from deme.merging.combine import Merge
from deme.merging.methods.weighted_sum import weighted_sum
from deme.merging.stream import find_nan, merge_folder
from deme.models.layout import EMA, UNET
from deme.models.loading import load_folder, load_pretrained
from deme.runs import EvaluateSettings, PathsSettings, Run, base_hash, build, compose_stage
from deme.system import BadConfig, MissingInput, WorkFailed, locate, tensors
from deme.system.hugging_face import load_network, variant_of
from tests.clips import hugging_face_clip
from tests.models import passport_of

STEM = "diffusion_pytorch_model"
PATHS = PathsSettings(runs="runs", cache=None, data="data", models="models")


@pytest.fixture
def digits(tmp_path):
    return Path(shutil.copytree(locate("asset:digits_base"), tmp_path / "digits"))


@pytest.fixture
def pipeline(tmp_path):
    return Path(shutil.copytree(locate("asset:captioned_digits"), tmp_path / "pipeline"))


def rewritten(folder, change, name=UNET):
    state = {key: change(value) for key, value in load_file(folder / name).items()}
    save_file(state, folder / name)
    return state


def edited(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float64]
)
def test_weights_of_any_precision_are_read_as_float32(digits, dtype):
    state = rewritten(digits, lambda value: value.to(dtype))
    found = load_pretrained(str(digits)).unet.state_dict()
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert all(torch.equal(found[name], value.to(torch.float32)) for name, value in state.items())


def test_float8_weights_are_merged_in_float32(digits, tmp_path):
    state = rewritten(digits, lambda value: value.to(torch.float8_e4m3fn))
    plan = open_plan({"path": "asset:digits_base"}, [digits, locate("asset:digits_base")])
    assert find_nan(plan) == []
    merge_folder(plan, Merge(weighted_sum, 2, [1.0, 0.0]), tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / UNET)
    base = load_file(locate("asset:digits_base") / UNET)
    for name, value in merged.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, state[name].float(), rtol=1e-6, atol=1e-6)
        assert not torch.equal(value, base[name]) or torch.equal(state[name].float(), base[name])


def test_a_float8_nan_is_found(digits):
    rewritten(digits, lambda value: (value * torch.nan).to(torch.float8_e4m3fn))
    with pytest.raises(WorkFailed, match=r"conv_in\.\w+ of .* holds NaN or infinite values"):
        load_pretrained(str(digits))


@pytest.mark.parametrize(
    ("dtype", "text"),
    [(torch.complex64, "is complex64"), (torch.int8, "is int8"), (torch.uint16, "is of type U16")],
)
def test_tensors_that_are_no_floating_point_numbers_are_named(digits, dtype, text):
    rewritten(digits, lambda value: value.abs().to(dtype))
    for read in (load_pretrained, open_checkpoint):
        with pytest.raises(WorkFailed, match=rf"tensor \S+ of \S+{STEM}\.safetensors {text}"):
            read(str(digits) if read is load_pretrained else digits)


def test_a_type_that_torch_has_not_is_named(digits):
    data = (digits / UNET).read_bytes()
    (digits / UNET).write_bytes(data.replace(b'"F32"', b'"F4" ', 1))
    with pytest.raises(WorkFailed, match=r"(tensor \S+ .* is of type F4)|is damaged"):
        load_pretrained(str(digits))


def sparse(value):
    return value.to_sparse() if value.dim() == 1 else value


def quantized(value):
    return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda value: value.to("meta"), "is a meta tensor"),
        (sparse, "is sparse"),
        (quantized, "is quantized"),
        (lambda value: value + 0j, "is complex64"),
    ],
)
def test_a_pickle_of_tensors_without_plain_values_names_one(digits, change, text):
    state = {name: change(value) for name, value in load_file(digits / UNET).items()}
    (digits / UNET).unlink()
    torch.save(state, digits / "unet" / f"{STEM}.bin")
    with pytest.raises(WorkFailed, match=rf"tensor \S+ of \S+\.bin {text}") as caught:
        load_pretrained(str(digits))
    assert "copy it again" not in str(caught.value)


@pytest.mark.parametrize(
    ("index", "error", "text"),
    [
        ({}, WorkFailed, "weight_map is missing"),
        ({"weight_map": {"conv_in.bias": 3}}, WorkFailed, r"weight_map\.conv_in\.bias must be a text; got 3"),
        ({"weight_map": []}, WorkFailed, "weight_map must be an object"),
        ({"weight_map": {"conv_in.bias": "part-9.safetensors"}}, MissingInput, r"part-9\.safetensors does not exist"),
        ([1], WorkFailed, "it must be an object"),
    ],
)  # fmt: skip
def test_an_index_of_numbers_or_missing_files(digits, index, error, text):
    (digits / UNET).unlink()
    (digits / "unet" / f"{STEM}.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(error, match=text):
        load_pretrained(str(digits))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_what_wrappers_write_in_front_of_all_names_is_left_out_and_said(
    digits, prefix, suffix, messages
):
    state = load_file(digits / UNET)
    wrapped = {prefix + name: value for name, value in state.items()}
    (digits / UNET).unlink()
    if suffix == "bin":
        torch.save(wrapped, digits / "unet" / f"{STEM}.bin")
    else:
        save_file(wrapped, digits / UNET)
    found = load_pretrained(str(digits)).unet.state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert any(prefix in message for message in messages)


def test_a_prefix_of_some_names_is_not_one(digits):
    state = load_file(digits / UNET)
    state["module.conv_in.bias"] = state.pop("conv_in.bias")
    save_file(state, digits / UNET)
    with pytest.raises(WorkFailed, match="2 tensors differ"):
        load_pretrained(str(digits))


@pytest.fixture
def averaged(digits):
    """A model with averaged weights beside the others, as diffusers' training scripts write it."""
    shutil.copytree(digits / "unet", digits / EMA)
    rewritten(digits, lambda value: value * 2, f"{EMA}/{STEM}.safetensors")
    return digits


def test_averaged_weights_beside_the_others_are_said_and_taken_if_asked_for(
    averaged, messages, monkeypatch
):
    raw, ema = load_file(averaged / UNET), load_file(averaged / EMA / f"{STEM}.safetensors")
    found = load_pretrained(str(averaged)).unet.state_dict()
    assert torch.equal(found["conv_in.weight"], raw["conv_in.weight"])
    assert any(EMA in message and "model.ema=true" in message for message in messages)
    found = load_pretrained(str(averaged), ema=True).unet.state_dict()
    assert torch.equal(found["conv_in.weight"], ema["conv_in.weight"])
    shutil.rmtree(averaged / EMA)
    with pytest.raises(BadConfig, match=f"has no {EMA}/\ntype: model.ema=false"):
        load_pretrained(str(averaged), ema=True)


def test_averaged_weights_that_are_not_taken_are_said_wherever_a_folder_is_opened(
    averaged, messages
):
    for read in (open_checkpoint, lambda folder: load_folder(str(folder))):
        messages.clear()
        read(averaged)
        assert [EMA in message for message in messages] == [True]
        assert "model.ema" not in messages[0]  # of a model option alone
    base = open_plan({"path": str(averaged)}, [averaged, locate("asset:digits_base")], True).base
    assert not base.ema
    assert any("model.ema=true" in message for message in messages)


def test_averaged_weights_of_an_input_are_no_model_option(averaged, in_tmp, messages):
    words = ["metrics=loss", f"inputs.weights={averaged}", "model=diffusers", "model.path=asset:digits_base"]  # fmt: skip
    for ema in (False, True):
        config = compose_stage("evaluate", [*words, f"model.ema={str(ema).lower()}"])
        run, settings = Run.planned(config), build(EvaluateSettings, config)
        if ema:
            with pytest.raises(BadConfig, match=r"model.ema=true .*\ntype: model.path="):
                load_source(run, settings, Compute.of(settings.compute))
        else:
            load_source(run, settings, Compute.of(settings.compute))
            assert [EMA in message for message in messages].count(True) == 1


def test_the_passport_of_averaged_weights_is_their_own(averaged, tmp_path):
    data = load_digits()
    rewritten(averaged, lambda value: value * 0, f"{EMA}/{STEM}.safetensors")
    found = []
    for ema in (False, True, False):
        option = {"path": str(averaged), "ema": ema}
        model = load_pretrained(**option)
        found.append(passport_of(option, model, data, tmp_path))
    assert found[0] == found[2]
    assert found[0]["stated"] != found[1]["stated"]
    assert found[1]["weights"] == "ema"


def test_averaged_weights_are_the_base_of_a_merge_if_asked_for(averaged):
    for ema in (False, True):
        plan = open_plan(
            {"path": str(averaged), "ema": ema},
            [locate("asset:digits_base")] * 2,
            of_checkpoints=True,
        )
        (part,) = plan.base.parts.values()
        folder = EMA if ema else "unet"
        expected = load_file(averaged / folder / f"{STEM}.safetensors")["conv_in.weight"]
        assert torch.equal(part.read("conv_in.weight"), expected)
    assert (
        base_hash({"ema": True}, averaged)
        != base_hash({"ema": False}, averaged)
        == base_hash({}, averaged)
    )


def test_averaged_weights_are_another_run_and_the_others_the_same_as_ever(averaged, in_tmp):
    def name(*more):
        return Run.planned(
            compose_stage("train", ["model=diffusers", f"model.path={averaged}", *more])
        ).path.name

    config = compose_stage("train", ["model=diffusers", f"model.path={averaged}"])
    del config["model"]["ema"]  # as before there was the key
    assert name() == name("model.ema=false") == Run.planned(config).path.name
    assert name("model.ema=true") != name()


def as_variant(folder, *parts):
    """Let the weights of parts be those of the variant fp16 alone."""
    for part, stem in parts:
        file = folder / part / f"{stem}.safetensors"
        state = {n: v.half() if v.is_floating_point() else v for n, v in load_file(file).items()}
        file.unlink()
        save_file(state, folder / part / f"{stem}.fp16.safetensors", metadata={"format": "pt"})


EVERY_PART = (("unet", STEM), ("vae", STEM), ("text_encoder", "model"))


def test_a_pipeline_whose_parts_have_the_variant_fp16_alone(pipeline, tmp_path):
    as_variant(pipeline, *EVERY_PART)
    model = load_pretrained(str(pipeline))
    stock = StableDiffusionPipeline.from_pretrained(pipeline, variant="fp16", local_files_only=True)
    for ours, theirs in (
        (model.encoders._vae, stock.vae),
        (model.encoders._text_encoder, stock.text_encoder),
        (model.unet, stock.unet),
    ):
        theirs = theirs.float().state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.state_dict().items())
    # what is written from it is loaded without naming a variant, hard links or not
    for links in (False, True):
        model.save(tmp_path / f"saved{links}", model.state_dict(), {}, links=links)
        again = StableDiffusionPipeline.from_pretrained(
            tmp_path / f"saved{links}", local_files_only=True
        )
        assert torch.equal(
            again.vae.decoder.conv_in.weight, stock.vae.float().decoder.conv_in.weight
        )
        assert again.text_encoder is not None
        assert not list((tmp_path / f"saved{links}").rglob("*.fp16.*"))
    assert len(list(pipeline.rglob("*.fp16.safetensors"))) == 3


def test_a_merge_of_such_pipelines_is_a_stock_pipeline(pipeline, tmp_path):
    as_variant(pipeline, *EVERY_PART)
    plan = open_plan(
        {"path": str(pipeline)}, [pipeline, locate("asset:captioned_digits")], of_checkpoints=True
    )
    merge_folder(plan, Merge(weighted_sum, 2, "uniform"), tmp_path / "merged")
    copy_other_parts(plan, tmp_path / "merged", with_projections=False)
    assert (
        StableDiffusionPipeline.from_pretrained(tmp_path / "merged", local_files_only=True).vae
        is not None
    )


def test_a_clip_whose_weights_are_a_variant(tmp_path):
    folder = hugging_face_clip(tmp_path / "clip")
    before = load_network(folder, ("clip",), "CLIPModel")[0].state_dict()
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    assert variant_of(folder) == "fp16"
    after = load_network(folder, ("clip",), "CLIPModel")[0].state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_of_several_variants_one_must_be_named(pipeline):
    as_variant(pipeline, ("vae", STEM))
    shutil.copyfile(
        pipeline / "vae" / f"{STEM}.fp16.safetensors", pipeline / "vae" / f"{STEM}.bf16.safetensors"
    )
    with pytest.raises(BadConfig, match=r"several variants of its weights: bf16, fp16"):
        variant_of(pipeline / "vae")


@pytest.mark.parametrize(
    ("part", "changes", "text"),
    [
        ("vae", {"_class_name": "AutoencoderTiny"}, "a vae of the class AutoencoderTiny; only AutoencoderKL is read"),
        ("text_encoder", {"architectures": ["T5EncoderModel"]}, "a text_encoder of the class T5EncoderModel; only CLIPTextModel"),
    ],
)  # fmt: skip
def test_another_class_of_a_frozen_part_is_refused_by_its_name(pipeline, part, changes, text):
    edited(pipeline / part / "config.json", **changes)
    with pytest.raises(BadConfig, match=text):
        load_pretrained(str(pipeline))


def test_a_class_that_only_model_index_names_is_refused(pipeline):
    config = json.loads((pipeline / "vae/config.json").read_text())
    del config["_class_name"]
    (pipeline / "vae/config.json").write_text(json.dumps(config))
    load_pretrained(str(pipeline))
    edited(pipeline / "model_index.json", vae=["diffusers", "AsymmetricAutoencoderKL"])
    with pytest.raises(BadConfig, match="a vae of the class AsymmetricAutoencoderKL"):
        load_pretrained(str(pipeline))


def test_weights_that_do_not_belong_to_a_config_are_not_to_be_copied_again(pipeline):
    edited(pipeline / "text_encoder/config.json", num_hidden_layers=7)
    model = load_pretrained(str(pipeline))
    with pytest.raises(BadConfig, match=r"do not belong to its config\.json") as caught:
        model.condition(["a cat"])
    assert "copy" not in str(caught.value)


LORA = {"unet.mid_block.attentions.0.to_q.lora_A.weight": torch.zeros(4, 8)}
LDM = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4)}
DDPM = {"temb.dense.0.weight": torch.zeros(4), "conv_in.weight": torch.zeros(4)}


@pytest.mark.parametrize(
    ("name", "state", "what", "command"),
    [
        ("a.safetensors", LORA, "a LoRA", "load_lora_weights"),
        ("a.safetensors", LDM, "a pipeline in a single file", "deme convert"),
        ("a.safetensors", DDPM, "the original DDPM layout", "deme convert "),
        ("a.safetensors", {"conv_in.bias": torch.zeros(1)}, "without the config", "type: model=<folder>"),
        ("a.ckpt", None, "a single file of weights", "save_file"),
        ("a.gguf", None, "GGUF", "a folder"),
        ("a.zip", None, "an archive", "a folder"),
        ("lora/pytorch_lora_weights.safetensors", LORA, "a LoRA", "fuse_lora"),
        ("lora/adapter_config.json", None, "a LoRA", "fuse_lora"),
    ],
)  # fmt: skip
def test_what_is_no_model_folder_is_named_with_the_command_that_helps(
    tmp_path, name, state, what, command
):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    if state is None:
        file.write_bytes(b"x")
    else:
        save_file(state, file)
    place = file.parent if file.parent != tmp_path else file
    for read in (load_pretrained, open_checkpoint):
        with pytest.raises(BadConfig, match=what) as caught:
            read(str(place) if read is load_pretrained else place)
        assert command in str(caught.value)
        assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("name", ["$(touch canary).safetensors", 'it\'s "so"; x.ckpt', "a b.pt"])
def test_a_command_that_helps_is_safe_to_type(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    if name.endswith(".safetensors"):
        save_file(LORA, tmp_path / name)
    with pytest.raises(BadConfig) as caught:
        load_pretrained(name_of := str(tmp_path / name))
    command = str(caught.value).partition("type: ")[2].partition(", and then")[0]
    python, flag, code = shlex.split(command)
    assert (python, flag) == ("python", "-c")
    constants = [n.value for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Constant)]
    assert name_of in constants


def test_a_model_of_images_that_are_not_square_decides_over_their_size(tmp_path):
    for index in range(8):
        Image.new("RGB", (20, 20), (30 * index, 0, 0)).save(tmp_path / f"{index}.png")
    option = {"_target_": "deme.data.image_folder.load_image_folder", "path": str(tmp_path), "held_out_fraction": 0.5}  # fmt: skip
    data = load_data(option, PATHS, (3, 8, 16))
    assert data.train.__getitems__([0]).shape == (1, 3, 8, 16)
    assert load_data({"_target_": "deme.data.digits.load_digits"}, PATHS, (1, 8, 8)) is not None


def test_a_file_that_may_not_be_read_is_not_called_damaged(digits, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tensors, "safe_open", refuse)
    with pytest.raises(MissingInput, match="cannot be read: Permission denied") as caught:
        load_pretrained(str(digits))
    assert "copy" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"downsample_padding": 3}, "makes no model: Sizes of tensors must match"),
        ({"norm_eps": None}, "makes no model: "),
        ({"dropout": "x"}, "makes no model: "),
        ({"down_block_types": ["Nothing", "DownBlock2D"]}, "makes no model: "),
        ({"block_out_channels": [16384, 16384]}, r"a network of [\d,]+ parameters, and its weights are [\d,]+ bytes"),
        ({"layers_per_block": 10**9}, "layers_per_block must be a whole number, at most 64, or a list"),
        ({"sample_size": [8, 8, 8]}, "sample_size must be a whole number, or a list"),
    ],
)  # fmt: skip
def test_a_config_whose_network_would_fail_is_refused_when_it_is_read(digits, changes, text):
    edited(digits / "unet/config.json", **changes)
    with pytest.raises((BadConfig, WorkFailed), match=text) as caught:
        load_pretrained(str(digits))
    assert len(str(caught.value).splitlines()) <= 2
