"""Own images: the metrics that fit them, and the UNet that model=auto stands for."""

import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image

from deme.builders import with_fitting_unet
from deme.commands.arguments import log_without_effect
from deme.runs import TrainSettings, build, compose_stage, instantiate
from deme.runs.config import expand_overrides
from deme.runs.settings import run_settings
from deme.runs.settings.architecture import LARGEST, SMALLEST, near_sizes, sides_of, unet_option
from deme.system import BadConfig


@pytest.mark.parametrize(
    ("words", "features"),
    [
        ([], ["digits"]),
        (["data=digits"], ["digits"]),
        (["data=own/"], []),
        (["data=image_folder", "data.path=own"], []),
        (["data=own/", "metrics.loss.draws=2"], []),
        (["data=own/", "experiment=digits/evaluate"], []),
        (["data=own/", "metrics=digits"], ["digits"]),
        (["data=own/", "metrics=inception768", "metrics.path=x"], ["inception768"]),
        (["data=cifar10", "experiment=cifar10/evaluate", "metrics.path=x"], ["pytorch"]),
    ],
)
def test_the_loss_judges_own_images_unless_metrics_are_chosen(words, features):
    config = compose_stage("evaluate", words)
    assert list(config["metrics"]["features"]) == features
    assert config["metrics"]["loss"] is not None


def test_what_has_no_metrics_gets_none():
    words = ["data=own/", "num_steps=3"]
    assert expand_overrides("train", words) == [
        "data=image_folder",
        "data.path=own/",
        "num_steps=3",
    ]
    assert "metrics=loss" in expand_overrides("search", words[:1])
    assert "metrics=loss" in expand_overrides("stats", words[:1])
    assert expand_overrides("improve", words[:1]) == expand_overrides("train", words[:1])


def pretraining(*words):
    return compose_stage("train", ["method=pretrain", *words])


def test_pretraining_starts_from_no_trained_model_unless_told():
    config = pretraining()
    assert "path" not in config["model"]
    assert (config["model"]["unet"]["sample_size"], config["model"]["unet"]["in_channels"]) == (
        8,
        1,
    )
    assert config["optimizer"]["lr"] > compose_stage("train", [])["optimizer"]["lr"]
    assert pretraining("model=digits_base")["model"]["path"] == "asset:digits_base"
    assert pretraining("optimizer.lr=3e-3")["optimizer"]["lr"] == 3e-3


def test_the_seed_is_that_of_the_run():
    words = ["method=pretrain", "data=own/", "data.size=16", "data.channels=1"]
    assert compose_stage("train", words, seed=7)["model"]["seed"] == 7
    assert (
        compose_stage("train", words, seed=7)["model"] == pretraining(*words[1:], "seed=7")["model"]
    )


def test_it_is_the_compact_unet_for_32_pixels_and_ddpms_for_256():
    for size, name in ((32, "ddpm_compact"), (256, "ddpm_lsun256")):
        known = compose_stage("train", [f"model={name}"])["model"]
        width = known["unet"]["block_out_channels"][0]
        assert unet_option(size, 3, 0, width) == {**known, "unet": {**known["unet"]}}


def test_the_width_is_a_multiple_of_the_groups():
    words = ["data=own/", "data.size=28", "data.channels=1"]
    unet = pretraining(*words, "model.width=96")["model"]["unet"]
    assert unet["block_out_channels"] == [96, 192, 192]
    for width in (0, 48, "wide", 1024, -32):
        with pytest.raises(BadConfig, match=r"model\.width"):
            pretraining(*words, f"model.width={width}")


@pytest.mark.parametrize(
    ("size", "channels"), [(8, 1), (12, 3), (14, 1), (20, 3), (28, 1), (48, 1)]
)
def test_the_unet_answers_at_sizes_that_it_takes(size, channels):
    option = unet_option(size, channels, 0)
    with torch.device("meta"):
        unet = UNet2DModel(**option["unet"])
    x_t = torch.zeros(2, channels, size, size, device="meta")
    assert unet(x_t, torch.zeros(2, device="meta"), return_dict=False)[0].shape == x_t.shape


def test_sizes_that_it_does_not_take_are_refused_with_near_ones():
    for size in (9, 30, 50, 100, 250, 7, 1000):
        assert not sides_of(size)
        assert all(sides_of(near) for near in near_sizes(size))
        with pytest.raises(BadConfig) as error:
            pretraining("data=own/", f"data.size={size}", "data.channels=3")
        for near in near_sizes(size):
            assert f"data.size={near}" in str(error.value)
    assert near_sizes(100) == [96, 112]
    assert near_sizes(3) == [SMALLEST]
    assert near_sizes(4000) == [LARGEST]
    assert all(min(sides_of(size)) >= 4 for size in range(SMALLEST, LARGEST + 1) if sides_of(size))


def images(folder, sizes, mode):
    folder.mkdir()
    draw = torch.Generator().manual_seed(0)
    for number, (width, height) in enumerate(sizes):
        pixels = torch.randint(256, (height, width, 3), generator=draw, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).convert(mode).save(folder / f"{number:02}.png")
    return folder


def completed(folder, *words):
    config = pretraining(f"data={folder}/", f"paths.cache={folder.parent}/cache", *words)
    return with_fitting_unet(config, build(TrainSettings, config))


def test_images_of_one_size_say_which_it_is(tmp_path):
    for mode, channels in (("L", 1), ("RGB", 3)):
        config = completed(images(tmp_path / mode, [(16, 16)] * 4, mode))
        unet = config["model"]["unet"]
        assert (unet["sample_size"], unet["in_channels"]) == (16, channels)
        assert (config["data"]["size"], config["data"]["channels"]) == (16, channels)
        typed = (f"data.size={16}", f"data.channels={channels}")
        assert config["model"] == pretraining("data=own/", *typed)["model"]


def test_images_of_several_sizes_need_one(tmp_path):
    folder = images(tmp_path / "mixed", [(33, 40), (50, 50)], "RGB")
    with pytest.raises(BadConfig, match=r"33 x 40 to 50 x 50(?s:.*)data.size=32 or data.size=40"):
        completed(folder)
    assert completed(folder, "data.size=32")["model"]["unet"]["in_channels"] == 3


def test_model_auto_without_images_says_what_to_type():
    config = compose_stage("doctor", ["model=auto"])
    with pytest.raises(BadConfig, match=r"data\.size="):
        instantiate(config["model"])


IMPROVE = ["improve", "model=asset:digits_base", "data=digits", "out=x", "num_images=20"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["evaluate", "metrics=loss"], []),
        (["evaluate", "num_images=20"], []),
        (["evaluate", "metrics=loss", "num_images=20", "batch_size=9"], ["num_images=20"]),
        (["evaluate", "metrics=loss", "save_images=png", "num_images=20"], []),
        (IMPROVE, ["num_images=20"]),
        ([*IMPROVE, "metrics=digits"], []),
    ],
)
def test_settings_about_images_that_are_not_generated_are_said_to_have_no_effect(
    words, found, messages
):
    settings = run_settings(compose_stage(words[0], words[1:]))
    assert settings.without_effect() == found
    log_without_effect(settings)
    assert len(messages) == len(found)
    assert all(word in messages[0] for word in found)
