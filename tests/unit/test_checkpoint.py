"""Weights and configs as people have them: layouts, precisions, older names; and what is refused, in which words."""

import json
import os
import pickle
import re
import shutil

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UNet2DModel,
)
from safetensors.torch import load_file, save_file

from deme.models.layout import UNET
from deme.models.loading import load_pretrained
from deme.models.swapped import SwappedExperts
from deme.system import tensors
from deme.system.errors import UNSAFE, BadConfig, MissingInput, WorkFailed
from deme.training.fit import step_of
from tests.models import tiny

ATTENTION = {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
             "attention_head_dim": 4, "add_attention": True}  # fmt: skip
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
STEM = "diffusion_pytorch_model"


def answer(model, x_t=None):
    g = torch.Generator().manual_seed(0)
    x_t, t = torch.randn(3, 1, 8, 8, generator=g), torch.randint(0, 1000, (3,), generator=g)
    with torch.no_grad():
        return (model.unet if hasattr(model, "schedule") else model)(x_t, t).sample


@pytest.fixture
def model():
    return tiny(**ATTENTION)


@pytest.fixture
def saved(tmp_path, model):
    """A folder as diffusers writes it, all inside unet/ and scheduler/."""
    place = tmp_path / "m"
    DDPMPipeline(model.unet, DDPMScheduler()).save_pretrained(place)
    return place


def weights(folder):
    return load_file(folder / UNET)


def flat(folder):
    """The layout of google's repositories: everything at the top."""
    for file in [*folder.glob("unet/*"), *folder.glob("scheduler/*")]:
        shutil.move(file, folder / file.name)
    (folder / "unet").rmdir()
    (folder / "scheduler").rmdir()
    return folder


def pickled(state, folder, **options):
    torch.save(state, folder / UNET.replace(".safetensors", ".bin"), **options)
    (folder / UNET).unlink()


def old_names(state, conv=False):
    renamed = {}
    for name, value in state.items():
        for new, old in OLD.items():
            if f".{new}." in name:
                name = name.replace(f".{new}.", f".{old}.")
                value = value[:, :, None, None] if conv and value.ndim == 2 else value
        renamed[name] = value.contiguous()
    assert sum(name.endswith("query.weight") for name in renamed) == 4  # 1 down, 1 mid, 2 up
    return renamed


def test_everything_at_the_top_of_the_folder(saved, model):
    assert torch.equal(answer(load_pretrained(str(flat(saved)))), answer(model))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_state_dict(saved, model, zipped):
    pickled(weights(saved), saved, _use_new_zipfile_serialization=zipped)
    assert torch.equal(answer(load_pretrained(str(saved))), answer(model))


def test_safetensors_are_preferred_to_a_pickle(saved, model):
    torch.save({"conv_in.bias": torch.zeros(1)}, saved / "unet" / f"{STEM}.bin")
    assert torch.equal(answer(load_pretrained(str(saved))), answer(model))


@pytest.mark.parametrize("name", [f"{STEM}.safetensors", f"{STEM}.fp16.safetensors"])
def test_half_precision_becomes_single_exactly(saved, name):
    half = {k: v.half() for k, v in weights(saved).items()}
    (saved / UNET).unlink()
    save_file(half, saved / "unet" / name)
    found = load_pretrained(str(saved)).unet.state_dict()
    assert all(
        v.dtype == torch.float32 and torch.equal(v, half[k].float()) for k, v in found.items()
    )


def test_one_of_several_variants_must_be_chosen(saved):
    for variant in ("fp16", "non_ema"):
        shutil.copy(saved / UNET, saved / "unet" / f"{STEM}.{variant}.safetensors")
    load_pretrained(str(saved))
    (saved / UNET).unlink()
    with pytest.raises(
        BadConfig,
        match=r"several variants of its weights: fp16, non_ema\nrename",
    ):
        load_pretrained(str(saved))


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_with_an_index(saved, model, variant):
    shutil.rmtree(saved / "unet")
    model.unet.save_pretrained(saved / "unet", max_shard_size="4KB", variant=variant)
    assert len(list(saved.glob("unet/*-of-*.safetensors"))) > 1
    assert torch.equal(answer(load_pretrained(str(saved))), answer(model))
    last = max(saved.glob("unet/*-of-*.safetensors"))
    last.unlink()
    with pytest.raises(MissingInput, match=f"{re.escape(last.name)} does not exist"):
        load_pretrained(str(saved))


def test_an_index_that_promises_too_much(saved, model):
    shutil.rmtree(saved / "unet")
    model.unet.save_pretrained(saved / "unet", max_shard_size="4KB")
    index = saved / "unet" / f"{STEM}.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["conv_in.extra"] = content["weight_map"]["conv_in.bias"]
    index.write_text(json.dumps(content))
    with pytest.raises(WorkFailed, match=r"no tensor conv_in\.extra"):
        load_pretrained(str(saved))
    index.write_text("{}")
    with pytest.raises(WorkFailed, match="weight_map is missing"):
        load_pretrained(str(saved))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_attention_names_before_0_18_mean_what_diffusers_makes_of_them(saved, model, kind):
    old = old_names(weights(saved))
    if kind == "bin":
        pickled(old, saved)
    else:
        save_file(old, saved / UNET, metadata={"format": "pt"})
    stock = UNet2DModel.from_pretrained(
        saved, subfolder="unet", use_safetensors=kind == "safetensors"
    ).eval()
    found = answer(load_pretrained(str(saved)))
    assert torch.equal(found, answer(stock))
    assert torch.equal(found, answer(model))


def test_attention_as_1x1_convolutions(saved, model):
    save_file(old_names(weights(saved), conv=True), saved / UNET, metadata={"format": "pt"})
    assert torch.equal(answer(load_pretrained(str(saved))), answer(model))


def test_experts_of_any_layout_are_swapped_in(tmp_path):
    folders, models = [], [tiny(seed, **ATTENTION) for seed in range(4)]
    for index, one in enumerate(models):
        folders.append(tmp_path / str(index))
        one.save(folders[-1], one.state_dict(), {})
    pickled(weights(folders[1]), folders[1])
    flat(folders[2])
    save_file(old_names(weights(folders[3])), folders[3] / UNET)
    experts = SwappedExperts(folders)
    x_t, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 700])
    with torch.no_grad():
        for network, one in zip(experts.networks(), models, strict=True):
            assert torch.equal(network(x_t, t), one(x_t, t))
    assert experts.num_swaps == 3


SCHEDULES = {
    "linear": {"beta_start": 2e-4, "beta_end": 0.015},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {
        "trained_betas": torch.linspace(1e-4, 0.1, 200).tolist(),
        "num_train_timesteps": 200,
    },
    "zero_snr": {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    "sample": {"prediction_type": "sample"},
}
CLASSES = [
    DDPMScheduler,
    DDIMScheduler,
    PNDMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
]


UNKNOWN = {PNDMScheduler: ("zero_snr", "sample")}  # what a scheduler's config cannot say
PAIRS = [
    (kind, name) for kind in CLASSES for name in SCHEDULES if name not in UNKNOWN.get(kind, ())
]


@pytest.mark.parametrize(
    ("kind", "name"), PAIRS, ids=lambda value: getattr(value, "__name__", value)
)
def test_the_noise_schedule_is_the_folders_own_whatever_scheduler_it_names(
    saved, tmp_path, kind, name
):
    scheduler = kind(**SCHEDULES[name])
    shutil.rmtree(saved / "scheduler")
    scheduler.save_pretrained(saved / "scheduler")
    first = load_pretrained(str(saved))
    first.save(tmp_path / "again", first.state_dict(), {})
    again = DDPMPipeline.from_pretrained(tmp_path / "again").scheduler
    for model in (first, load_pretrained(str(tmp_path / "again"))):
        expected = scheduler.alphas_cumprod.double()
        if name == "zero_snr" and kind in (DPMSolverMultistepScheduler, EulerDiscreteScheduler):
            expected[-1] = 0  # these two sample from 2^-24 instead
        assert torch.equal(model.schedule.alpha_squared, expected)
        assert (
            model.prediction_type
            == scheduler.config["prediction_type"]
            == again.config["prediction_type"]
        )
    assert torch.equal(again.alphas_cumprod.double(), first.schedule.alpha_squared)


def test_predict_epsilon_false_is_a_network_that_predicts_images(saved):
    set_config(
        saved / "scheduler/scheduler_config.json", predict_epsilon=False, prediction_type=None
    )
    assert load_pretrained(str(saved)).prediction_type == "sample"


def set_config(file, **values):
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


CONFIG, SCHEDULER, INDEX = "unet/config.json", "scheduler/scheduler_config.json", "model_index.json"


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        (CONFIG, {"_class_name": "UNet3DConditionModel"}, "holds a UNet3DConditionModel; allowed: .*UNet2DConditionModel, .*UNet2DModel"),
        (CONFIG, {"class_embed_type": "timestep"}, "class_embed_type=timestep"),
        (CONFIG, {"out_channels": 3}, "1 channels in and 3 out .*out_channels"),
        (CONFIG, {"time_embedding_type": "fourier"}, "time_embedding_type='fourier'"),
        (CONFIG, {"sample_size": None}, "\nset sample_size"),
        (CONFIG, {"down_block_types": ["NoBlock", "DownBlock2D"]}, "diffusers makes no model: NoBlock does not exist"),
        (INDEX, {"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]}, r"is a LDMPipeline with vqvae \(VQModel\)"),
        (INDEX, {"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiT"]}, r"DiTPipeline with transformer \(DiT\)"),
        (SCHEDULER, {"_class_name": "ScoreSdeVeScheduler"}, "ScoreSdeVeScheduler; only variance-preserving schedules .*\nallowed: DDPM, DDIM"),
        (SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler", "stochastic_sampling": True}, "with stochastic_sampling"),
        (SCHEDULER, {"use_flow_sigmas": True, "invert_sigmas": True}, "with invert_sigmas"),
        (SCHEDULER, {"prediction_type": "flow_prediction"}, "'flow_prediction'; allowed: epsilon, sample, v_prediction"),
        (SCHEDULER, {"beta_schedule": "unheard_of"}, "diffusers makes no model: unheard_of"),
        (SCHEDULER, {"trained_betas": [0.1, 0.2]}, "2 trained_betas for num_train_timesteps=1000"),
        (SCHEDULER, {"trained_betas": [0.1, -0.2], "num_train_timesteps": 2}, "makes no model: alpha_squared must fall"),
    ],
)  # fmt: skip
def test_other_models_are_refused_by_name(saved, file, values, message):
    set_config(saved / file, **values)
    with pytest.raises(BadConfig, match=message) as refused:
        load_pretrained(str(saved))
    assert len(str(refused.value).splitlines()) <= 3


def test_a_unet_without_a_schedule_says_what_to_put_where(saved):
    with pytest.raises(MissingInput, match=rf"\ntype: model\.path={re.escape(str(saved))}$"):
        load_pretrained(str(saved / "unet"))
    shutil.rmtree(saved / "scheduler")
    with pytest.raises(MissingInput, match=r"\nput the scheduler_config\.json .* into it"):
        load_pretrained(str(saved))
    (saved / "scheduler_config.json").write_text('{"beta_schedule": "linear"}')
    load_pretrained(str(saved))


def test_tensors_that_do_not_fit_are_named(saved):
    state = weights(saved)
    del state["conv_in.bias"]
    pickled(state, saved)
    with pytest.raises(
        WorkFailed, match=r"does not fit its config\.json: 1 tensors differ, first conv_in\.bias"
    ):
        load_pretrained(str(saved))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_cut_pickle_is_damaged(saved, zipped):
    pickled(weights(saved), saved, _use_new_zipfile_serialization=zipped)
    file = saved / "unet" / f"{STEM}.bin"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(WorkFailed, match="is damaged, or no file that torch"):
        load_pretrained(str(saved))


class Code:
    def __reduce__(self):
        return print, ("this must not be run",)


def test_a_pickle_that_holds_code_is_refused_and_not_run(saved, capsys):
    pickled({"conv_in.bias": Code()}, saved)
    with pytest.raises(
        WorkFailed, match=r"more than tensors, .*Unsupported global: GLOBAL print .*\nwhere you"
    ):
        load_pretrained(str(saved))
    (saved / "unet" / f"{STEM}.bin").write_bytes(pickle.dumps({"conv_in.bias": Code()}))
    with pytest.raises(WorkFailed, match="more than tensors"):
        load_pretrained(str(saved))
    assert "this must not be run" not in capsys.readouterr().out


class Blocked:
    def __reduce__(self):
        return os.system, ("true",)


def test_a_pickle_of_a_blocked_module_is_refused_by_its_name(saved):
    pickled({"conv_in.bias": Blocked()}, saved)
    with pytest.raises(WorkFailed, match=r"safely: .*GLOBAL posix\.system .*blocked"):
        load_pretrained(str(saved))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1], "it has no global_step"), ({"global_step": "3"}, "it has no global_step"), ({"global_step": 3}, "it has no state_dict"),
        ({"global_step": Code()}, "more than tensors"), ({"global_step": Blocked()}, "blocked"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_training_cannot_go_on_from_is_damaged(tmp_path, value, text):
    file = tmp_path / "last.ckpt"
    torch.save(value, file)
    with pytest.raises(WorkFailed, match=text) as caught:
        step_of(file)
    assert str(caught.value).startswith(f"{file} is damaged: ")
    assert str(caught.value).endswith("\ndelete it to train from the start")
    assert not UNSAFE.search(str(caught.value))
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: [*state.values()], "is not a file of named tensors"),
        (
            lambda state: {**state, "conv_in.bias": torch.full((4,), float("inf"))},
            r"conv_in\.bias .* infinite",
        ),
    ],
)
def test_a_pickle_of_something_else_is_refused(saved, change, message):
    pickled(change(weights(saved)), saved)
    with pytest.raises(WorkFailed, match=message):
        load_pretrained(str(saved))


def test_a_pointer_of_git_lfs_is_no_weights(saved):
    (saved / UNET).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 143000000\n"
    )
    with pytest.raises(MissingInput, match="git lfs pull"):
        load_pretrained(str(saved))


def test_read_one_at_a_time_without_a_second_copy(saved, monkeypatch):
    """At most one tensor of the file is alive at a time."""
    import weakref

    alive = []
    read = tensors.TensorFile.read

    def watched(self, name):
        assert not any(one() is not None for one in alive)
        tensor = read(self, name)
        alive.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(tensors.TensorFile, "read", watched)
    model = load_pretrained(str(saved))
    assert len(alive) == len(model.unet.state_dict())
