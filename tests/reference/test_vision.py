"""Our CLIP and DINOv2 features against transformers' image processors and models, on tiny random networks."""

import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from deme.metrics.vision import ClipFeatures, DinoV2Features, resized
from deme.system import files
from deme.system.errors import BadConfig, WorkFailed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what transformers imports may be deprecated
    transformers = pytest.importorskip("transformers")

TINY = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}

# Pillow counts in whole numbers and torch in floats, so some halves are rounded the other way: up to 1.1% of the pixels are one
# level off, a few two. In features, measured: at most 0.012 of a feature's spread between images, 0 where nothing is resized;
# transformers' own two image processors, by Pillow and by torchvision, differ by up to 0.014.
TOLERANCE = 0.02


def strong(model):
    """Weights large enough for features to depend on the picture; those of a fresh transformer hardly do."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 or "class_embedding" in name:  # the rest starts as ones and zeros
                weight.normal_(generator=generator).div_(weight[0].numel() ** 0.5)
    return model.eval()


def clip_vision(side=224):
    config = transformers.CLIPVisionConfig(
        **TINY, image_size=side, patch_size=side // 7, projection_dim=12
    )
    return strong(transformers.CLIPVisionModelWithProjection(config))


def clip_whole():
    vision = {
        **TINY,
        "image_size": 64,
        "patch_size": 16,
    }  # its own projection_dim, 512, means nothing here
    text = {**TINY, "vocab_size": 50}
    return strong(
        transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        )
    )


def dinov2():
    config = transformers.Dinov2Config(**TINY, mlp_ratio=2, image_size=518, patch_size=14)
    return strong(transformers.Dinov2Model(config))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of the tiny networks, by name."""
    root = tmp_path_factory.mktemp("networks")
    for name, model in {"vision": clip_vision(), "clip": clip_whole(), "dinov2": dinov2()}.items():
        model.save_pretrained(root / name)
    return root


def pictures(height, width, count=6, channels=3):
    """Smooth ones, noise, and black and white edges, where bicubic overshoots."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(count):
        coarse = rng.integers(
            0, 256, (height // 8 + 2, width // 8 + 2, channels), dtype=np.uint8
        ).squeeze()
        smooth = np.asarray(
            Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
        )
        noise = rng.integers(0, 256, smooth.shape, dtype=np.uint8)
        found.append(
            [smooth, noise, 255 * (smooth > 128).astype(np.uint8)][index % 3].reshape(
                height, width, channels
            )
        )
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()


def as_pil(pixels):
    return [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in pixels]


def expected(model, processor, pixels):
    with torch.no_grad():
        output = model(pixel_values=processor(as_pil(pixels), return_tensors="pt")["pixel_values"])
    return (
        output.last_hidden_state[:, 0]
        if isinstance(model, transformers.Dinov2Model)
        else output.image_embeds
    )


def error(ours, theirs):
    """Largest difference in units of the spread of that feature between images."""
    return float(((ours - theirs).abs() / theirs.std(0)).max())


def pil_processor(name):
    """Transformers 5 has two backends and calls the older, by Pillow, <name>Pil."""
    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)


def clip_processor(side):
    return pil_processor("CLIPImageProcessor")(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )


# Pillow 13 resizes some tall images down before across, and then rounds otherwise: none of these, and no square one.
SIZES = [(32, 32), (300, 300), (224, 224), (280, 260), (64, 92), (150, 500)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_resizing_is_pillows(size):
    pixels = pictures(*size)
    theirs = [
        np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC)) for image in as_pil(pixels)
    ]
    difference = (
        resized(pixels, 224, crop=False) - torch.from_numpy(np.stack(theirs)).permute(0, 3, 1, 2)
    ).abs()
    assert float(difference.max()) <= 2
    assert float((difference > 0).float().mean()) < 0.01


@pytest.mark.parametrize("size", [*SIZES, (64, 90), (90, 64)], ids=str)
def test_cropping_is_torchvisions(size):
    """As in OpenAI's CLIP and in clean-fid; transformers cuts the sizes added here one pixel elsewhere."""
    transforms = pytest.importorskip("torchvision.transforms")
    bicubic = transforms.InterpolationMode.BICUBIC
    reference = transforms.Compose([transforms.Resize(224, bicubic), transforms.CenterCrop(224)])
    pixels = pictures(*size)
    theirs = torch.from_numpy(
        np.stack([np.asarray(reference(image)) for image in as_pil(pixels)])
    ).permute(0, 3, 1, 2)
    difference = (resized(pixels, 224, crop=True) - theirs).abs()
    assert float(difference.max()) <= 2
    assert float((difference > 0).float().mean()) < 0.02


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_clip_is_transformers_processor_and_model(folders, size):
    pixels = pictures(*size)
    model = transformers.CLIPVisionModelWithProjection.from_pretrained(folders / "vision")
    ours, theirs = (
        ClipFeatures(str(folders / "vision"))(pixels),
        expected(model, clip_processor(224), pixels),
    )
    assert (ours.shape, ours.dtype, ours.device.type) == ((6, 12), torch.float32, "cpu")
    assert error(ours, theirs) < TOLERANCE


def test_the_vision_half_of_a_whole_clip_is_read(folders):
    features, pixels = ClipFeatures(str(folders / "clip")), pictures(100, 80)
    whole = transformers.CLIPModel.from_pretrained(folders / "clip")
    inputs = clip_processor(64)(as_pil(pixels), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        theirs = whole.visual_projection(whole.vision_model(pixel_values=inputs).pooler_output)
    assert features.dimension == 24
    assert error(features(pixels), theirs) < TOLERANCE


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_dinov2_is_transformers_processor_and_model(folders, size):
    pixels = pictures(*size)
    model = transformers.Dinov2Model.from_pretrained(folders / "dinov2")
    colours = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    square = {"height": 224, "width": 224}
    processor = pil_processor("BitImageProcessor")(size=square, do_center_crop=False, **colours)
    ours, theirs = (
        DinoV2Features(str(folders / "dinov2"))(pixels),
        expected(model, processor, pixels),
    )
    assert (ours.shape, ours.dtype, ours.device.type) == ((6, 16), torch.float32, "cpu")
    assert error(ours, theirs) < TOLERANCE


BOTH = [(ClipFeatures, "vision"), (DinoV2Features, "dinov2")]


@pytest.mark.parametrize(("kind", "folder"), BOTH)
def test_grey_is_rgb_and_chunks_are_single_images(folders, kind, folder):
    features, grey = kind(str(folders / folder)), pictures(28, 28, count=53, channels=1)
    found = features(grey)
    assert torch.equal(found, features(grey.expand(-1, 3, -1, -1)))
    single = torch.cat([features(image[None]) for image in grey])
    torch.testing.assert_close(found, single, rtol=0, atol=1e-5)  # measured: 7e-7


@pytest.mark.parametrize(("kind", "folder"), BOTH)
def test_what_it_says_of_itself(folders, kind, folder):
    features = kind(str(folders / folder))
    assert (
        features.weights
        == files.sha256(folders / folder)
        == kind(str(folders / folder), features.weights).weights
    )
    assert (features.suffix, features.frechet_name) in {
        ("clip", "fd_clip"),
        ("dinov2", "fd_dinov2"),
    }
    assert f"{features.dimension}; Pillow's bicubic to 224 x 224" in features.name
    assert features.to("cpu") is features
    assert not features.network.training


def test_loading_is_silent_leaves_the_seed_alone_and_is_float32(folders, tmp_path, caplog):
    clip_whole().half().save_pretrained(tmp_path)
    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.add_handler(caplog.handler)
    logging.set_verbosity_info()
    state = torch.get_rng_state()
    try:
        features = ClipFeatures(str(tmp_path))  # transformers would report the text half
        after = logging.get_verbosity(), logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity(before[0])
        logging.remove_handler(caplog.handler)
    assert caplog.text == ""
    assert after == (logging.INFO, before[1])
    assert torch.equal(torch.get_rng_state(), state)
    assert {weight.dtype for weight in features.network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("kind", "folder", "allowed"),
    [(ClipFeatures, "dinov2", "clip, clip_vision_model"), (DinoV2Features, "clip", "dinov2")],
)
def test_another_kind_of_model_is_refused(folders, kind, folder, allowed):
    with pytest.raises(BadConfig, match=f"'{folder}'; allowed: {allowed}\ntype: metrics.path="):
        kind(str(folders / folder))


def damaged(folder, tmp_path, change):
    """A copy of a folder whose tensors were changed."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    return str(tmp_path)


@pytest.mark.parametrize(
    ("kind", "folder", "name"),
    [
        (ClipFeatures, "vision", "visual_projection.weight"),
        (ClipFeatures, "clip", "visual_projection.weight"),
        (DinoV2Features, "dinov2", "layernorm.bias"),
    ],
)
def test_missing_and_misshapen_tensors_are_refused(folders, tmp_path, kind, folder, name):
    message = rf"1 of the \d+ tensors of \w+.*{name}(?s:.*)type: metrics.path="
    with pytest.raises(BadConfig, match=message):
        kind(damaged(folders / folder, tmp_path, lambda tensors: tensors.pop(name)))
    with pytest.raises(BadConfig, match=message):
        kind(
            damaged(
                folders / folder, tmp_path, lambda tensors: tensors.update({name: torch.ones(5)})
            )
        )


def test_incomplete_and_cut_folders_are_refused(folders, tmp_path):
    with pytest.raises(
        BadConfig, match=r"config\.json and model\.safetensors(?s:.*)type: metrics.path="
    ):
        ClipFeatures(str(tmp_path))
    path = damaged(folders / "vision", tmp_path, lambda tensors: None)
    (tmp_path / "model.safetensors").write_bytes(
        (tmp_path / "model.safetensors").read_bytes()[:-10]
    )
    with pytest.raises(WorkFailed, match=str(tmp_path)):
        ClipFeatures(path)


@pytest.mark.parametrize(("kind", "folder"), BOTH)
def test_another_sha256_and_four_channels_are_refused(folders, kind, folder):
    path = str(folders / folder)
    with pytest.raises(BadConfig, match="expected 0000"):
        kind(path, "0000")
    for channels in (2, 4):
        with pytest.raises(
            BadConfig,
            match=rf"fd_\w+ .*\(2, {channels}, 8, 8\)",
        ):
            kind(path)(torch.zeros(2, channels, 8, 8, dtype=torch.uint8))


def test_without_transformers_it_says_what_to_type(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BadConfig, match=r"\ntype: pip install transformers"):
        ClipFeatures(str(folders / "vision"))
