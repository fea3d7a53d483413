"""Inception features against clean-fid's, torch-fidelity's and pytorch-fid's own, with a random network: no weights needed."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from deme.metrics import inception as resize
from deme.metrics.inception import InceptionFeatures, trunk
from deme.system import files, tensors
from deme.system.errors import BadConfig, WorkFailed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # clean-fid and torch-fidelity import deprecated things
    from cleanfid import inception_pytorch
    from cleanfid.resize import build_resizer
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

SIZES = [(32, 32), (64, 48), (320, 400)]


def pictures(height=32, width=32, count=3, channels=3):
    """Smooth random pictures, so that resizing means something."""
    small = torch.rand(count, channels, 5, 5, generator=torch.Generator().manual_seed(0)) * 255
    return (
        torch.nn.functional.interpolate(small, size=(height, width), mode="bicubic")
        .clamp(0, 255)
        .round()
        .byte()
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A whole random Inception as .pth and as .safetensors, with running statistics that keep activations alive."""
    folder = tmp_path_factory.mktemp("inception")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = trunk(2048)
        for name, value in network.state_dict().items():
            if name.endswith("conv.weight"):
                torch.nn.init.kaiming_normal_(value)
            elif name.endswith(("bn.bias", "running_mean")):
                value.normal_(0, 0.1)
    state = {n: v for n, v in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    state |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    torch.save(state, folder / "inception.pth")
    tensors.save(folder / "inception.safetensors", state)
    return folder


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(
    ("mode", "ours"), [("clean", resize.clean), ("legacy_pytorch", resize.pytorch)]
)
def test_resizing_equals_clean_fids(mode, ours, height, width):
    pixels = pictures(height, width)
    resizer = build_resizer(mode)
    theirs = np.stack([resizer(image) for image in pixels.permute(0, 2, 3, 1).numpy()])
    expected = torch.from_numpy(theirs).permute(0, 3, 1, 2)
    found = ours(pixels) * 128 + 128 if mode == "clean" else (ours(pixels) + 1) * 127.5
    assert float((found - expected).abs().max()) < 2e-3  # of 255 grey levels


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tensorflow_1_resize_takes_neighbours_from_the_upper_left(height, width):
    """dst pixel i lies at i * in / out in the source, with no half-pixel shift: five lines of an oracle in float64."""
    pixels = pictures(height, width)
    y, x = (np.arange(299) * side / 299 for side in (height, width))
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    below, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    image = pixels.numpy().astype(np.float64)
    v, h = (y - top)[:, None], x - left
    upper = image[:, :, top][..., left] * (1 - h) + image[:, :, top][..., right] * h
    lower = image[:, :, below][..., left] * (1 - h) + image[:, :, below][..., right] * h
    expected = upper * (1 - v) + lower * v
    assert float(np.abs(resize.tf(pixels).double().numpy() * 128 + 128 - expected).max()) < 1e-3


@pytest.mark.parametrize("layer", [64, 192, 768, 2048])
def test_the_tensorflow_convention_equals_torch_fidelitys(weights, layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = FeatureExtractorInceptionV3(
            "inception", [str(layer)], str(weights / "inception.pth")
        )
    pixels = pictures()
    found = InceptionFeatures(str(weights / "inception.pth"), "tf", layer)(pixels)
    assert found.shape == (3, layer)
    torch.testing.assert_close(found, theirs(pixels)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [768, 2048])
def test_the_pytorch_convention_equals_pytorch_fids(weights, layer, monkeypatch):
    state = torch.load(weights / "inception.pth", weights_only=True)
    monkeypatch.setattr(inception_pytorch, "load_state_dict_from_url", lambda *_, **__: state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        block = inception_pytorch.InceptionV3.BLOCK_INDEX_BY_DIM[layer]
        theirs = inception_pytorch.InceptionV3([block], resize_input=False).eval()
    pixels = pictures(48, 40)
    resizer = build_resizer("legacy_pytorch")
    resized = np.stack([resizer(image) for image in pixels.permute(0, 2, 3, 1).numpy()])
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(resized).permute(0, 3, 1, 2) / 255)[0].mean((2, 3))
    found = InceptionFeatures(str(weights / "inception.safetensors"), "pytorch", layer)(pixels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_conventions_differ_and_say_so(weights):
    names, found = set(), []
    for convention in ("pytorch", "clean", "tf"):
        extractor = InceptionFeatures(str(weights / "inception.safetensors"), convention)
        names.add((extractor.frechet_name, extractor.suffix, extractor.name))
        found.append(extractor(pictures()))
    assert {name for name, _, _ in names} == {"fid_pytorch", "fid_clean", "fid_tf"}
    assert len({name for _, _, name in names}) == 3
    assert not torch.allclose(found[0], found[1], rtol=1e-3)
    assert not torch.allclose(found[1], found[2], rtol=1e-3)
    small = InceptionFeatures(str(weights / "inception.safetensors"), "pytorch", 768)
    assert (small.frechet_name, small.suffix) == ("fid_inception768", "inception768")
    assert (
        InceptionFeatures(str(weights / "inception.safetensors"), "tf", 64).frechet_name
        == "fid_inception64_tf"
    )


def test_grey_images_are_shown_as_rgb_and_chunks_do_not_matter(weights):
    extractor = InceptionFeatures(str(weights / "inception.safetensors"), layer=64)
    grey = pictures(16, 16, 53, 1)
    whole = extractor(grey)
    torch.testing.assert_close(whole, extractor(grey.expand(-1, 3, -1, -1)), rtol=0, atol=0)
    torch.testing.assert_close(whole[50:], extractor(grey[50:]), rtol=1e-4, atol=1e-6)


def test_a_file_that_lacks_what_the_layer_needs_is_refused_not_filled(weights, tmp_path):
    state = tensors.TensorFile(weights / "inception.safetensors").read_all()
    part = {name: value for name, value in state.items() if not name.startswith(("Mixed_7", "fc"))}
    tensors.save(tmp_path / "part.safetensors", part)
    with pytest.raises(
        BadConfig,
        match=r"120 of the \d+ tensors of layer 2048, first Mixed_7a.*\n.*type: .*layer=768",
    ):
        InceptionFeatures(str(tmp_path / "part.safetensors"))
    assert InceptionFeatures(str(tmp_path / "part.safetensors"), layer=768)(pictures()).shape == (
        3,
        768,
    )
    tensors.save(tmp_path / "other.safetensors", {"x": torch.zeros(1)})
    with pytest.raises(BadConfig, match="Inception-v3 of FID"):
        InceptionFeatures(str(tmp_path / "other.safetensors"), layer=64)


def test_wrong_files_settings_and_images_are_refused(weights, tmp_path):
    good = str(weights / "inception.safetensors")
    with pytest.raises(BadConfig, match=f"{files.sha256(Path(good))}, expected {'0' * 64}"):
        InceptionFeatures(good, layer=64, sha256="0" * 64)
    assert InceptionFeatures(
        good, layer=64, sha256=files.sha256(Path(good))
    ).weights == files.sha256(Path(good))
    with pytest.raises(BadConfig, match="'cleen'; did you mean 'clean'"):
        InceptionFeatures(good, "cleen")
    with pytest.raises(BadConfig, match="layer 100; allowed: 64, 192, 768, 2048"):
        InceptionFeatures(good, layer=100)
    extractor = InceptionFeatures(good, layer=64)
    with pytest.raises(
        BadConfig,
        match=r"fid_inception64 .*uint8 \(2, 4, 8, 8\)",
    ):
        extractor(torch.zeros(2, 4, 8, 8, dtype=torch.uint8))
    with pytest.raises(BadConfig, match="float32"):
        extractor(torch.zeros(2, 3, 8, 8))
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    with pytest.raises(WorkFailed, match=r"bad\.pth"):
        InceptionFeatures(str(tmp_path / "bad.pth"))


def test_from_images_to_distance_equals_torchmetrics(weights):
    from torchmetrics.image.fid import FrechetInceptionDistance

    from deme.metrics import FrechetDistance, Statistics

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = str(weights / "inception.pth")
        theirs = FrechetInceptionDistance(
            feature=64, feature_extractor_weights_path=path, antialias=False
        )
    real, fake = pictures(32, 32, 70), 255 - pictures(32, 32, 66).flip(3)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    features = InceptionFeatures(path, "tf", 64)
    distance = FrechetDistance(Statistics().update(features(real)))
    assert distance(Statistics().update(features(fake))) == pytest.approx(
        float(theirs.compute()), rel=1e-5
    )
