"""Inpainting networks: what they see, how masks are read and cached, and the whole path on tiny ones."""

import json
import shutil

import diffusers
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from deme.data.captioned import load_captioned_images
from deme.data.latents import CachedLatents
from deme.diffusion import ShardedRandom, generator
from deme.models.loading import load_folder
from deme.system import MissingInput
from deme.system.paths import locate
from tests.captioned import captioned_folder
from tests.pipeline.program import TINY_TRAIN, done, run

SIDE = 16


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An inpainting pipeline with a random UNet of 9 channels, and 12 images with masks."""
    place = tmp_path_factory.mktemp("inpainting")
    shutil.copytree(locate("asset:captioned_digits"), place / "model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stored = json.loads((place / "model/unet/config.json").read_text())
        given = {n: v for n, v in stored.items() if n[0] != "_"} | {"in_channels": 9}
        UNet2DConditionModel(**given).save_pretrained(place / "model/unet")
    index = json.loads((place / "model/model_index.json").read_text())
    index["_class_name"] = "StableDiffusionInpaintPipeline"
    (place / "model/model_index.json").write_text(json.dumps(index))
    captioned_folder(place / "images", 12, (SIDE, SIDE), "the digit {}")
    (place / "masks").mkdir()
    for i in range(12):  # the left i + 2 columns are to be filled in
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[:, : i + 2] = 255
        Image.fromarray(mask).save(place / f"masks/{i}.png")
    return place


def data_of(place, **more):
    return load_captioned_images(str(place / "images"), size=SIDE, held_out_fraction=0.5, masks=str(place / "masks"), **more)  # fmt: skip


def test_the_network_sees_the_noise_the_mask_and_what_is_known(place):
    model = load_folder(str(place / "model"))
    assert model.noise_shape[0] == 4
    x_t, mask, known = (torch.randn(2, c, 8, 8, generator=generator(c)) for c in (4, 1, 5))
    known = known[:, :4]
    text = model.condition(["one", "two"])
    t = torch.tensor([10, 900])
    found = model(x_t, t, {**text, "mask": mask, "masked_latents": known})
    stock = UNet2DConditionModel.from_pretrained(place / "model/unet")
    seen = torch.cat([x_t, mask, known], 1)  # in the order of diffusers' pipeline
    expected = stock(seen, t, text["encoder_hidden_states"]).sample
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    grey, _ = model.encoders.moments(torch.zeros(2, 3, SIDE, SIDE))
    everything = {**text, "mask": torch.ones(2, 1, 8, 8), "masked_latents": grey}
    torch.testing.assert_close(model(x_t, t, text), model(x_t, t, everything), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mirrored", [False, True])
def test_masks_and_known_pixels_are_those_of_the_image(place, tmp_path, mirrored):
    model = load_folder(str(place / "model"))
    images = data_of(place).train
    cached = CachedLatents(images, model.encoders, tmp_path, mirrored)
    index = list(range(len(images)))
    pixels = images.__getitems__(index).float() / 127.5 - 1
    numbers = [int(text.split()[-1]) for text in images.captions(index)]
    batch = cached.__getitems__(index, [mirrored] * len(index))
    x0, condition = cached.training_sample(batch, ShardedRandom(generator("d"), len(index), 0, len(index)))  # fmt: skip
    assert x0.shape[1:] == model.noise_shape
    for row, number in enumerate(numbers):
        mask = torch.zeros(1, 1, SIDE, SIDE)
        mask[..., : number + 2] = 1
        image = pixels[row : row + 1]
        if mirrored:
            mask, image = mask.flip(3), image.flip(3)
        known, _ = model.encoders.moments(image * (mask < 0.5))
        torch.testing.assert_close(condition["masked_latents"][row], known[0], rtol=1e-2, atol=1e-2)
        assert torch.equal(condition["mask"][row], mask[0, :, ::2, ::2])
    _, evaluated = cached.eval_sample(index)
    assert evaluated.keys() == condition.keys()


def test_a_mask_for_each_image_is_needed(place, tmp_path):
    shutil.copytree(place / "masks", tmp_path / "few")
    (tmp_path / "few/3.png").unlink()
    with pytest.raises(MissingInput, match="lacks the masks of 1 of 12 images, the first: 3"):
        load_captioned_images(str(place / "images"), size=SIDE, masks=str(tmp_path / "few"))
    assert data_of(place).train.content_hash() != load_captioned_images(
        str(place / "images"), size=SIDE, held_out_fraction=0.5).train.content_hash()  # fmt: skip


def test_experts_train_merge_and_become_a_stock_pipeline(place):
    own = [f"model.path={place}/model", "model=diffusers"]
    data = ["data=captioned_images", f"data.path={place}/images", "data.held_out_fraction=0.5"]
    code, text = run(["train", *own, *data, *TINY_TRAIN], place)
    assert (code, "type: data=captioned_images data.masks=" in text) == (2, True), text
    data.append(f"data.masks={place}/masks")
    words = ["train", *own, *data, *TINY_TRAIN, "method=deme", "ranges.num_ranges=2", "passport.num_images=16",
             "passport.contradicted=train", "num_steps=2", "batch_size=4"]  # fmt: skip
    experts = [done([*words, f"expert={i}"], place) for i in (0, 1)]
    listed = f"inputs.experts=[{','.join(map(str, experts))}]"
    merged = done(["merge", *own, listed], place)
    measured = done(["evaluate", *own, *data, f"inputs.weights={merged}", "metrics=loss", "metrics.loss.draws=1",
                     "metrics.replicates=3"], place)  # fmt: skip
    assert json.loads((measured / "metrics.json").read_text())["metrics"]["loss"]["value"] > 0
    code, text = run(["export", f"run={merged}", f"out={place}/out"], place)
    assert code == 0, text
    pipeline = diffusers.StableDiffusionInpaintPipeline.from_pretrained(place / "out", safety_checker=None)  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    images = {"image": Image.open(place / "images/0.png"), "mask_image": Image.open(place / "masks/0.png")}  # fmt: skip
    found = pipeline("seven", **images, num_inference_steps=2, height=SIDE, width=SIDE).images[0]
    assert found.size == (SIDE, SIDE)
