"""`fd_own`: what it sees without labels, that it is trained once, and that data sets do not mix."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from deme.analysis.metric_validation import blurred, noisy
from deme.commands.compare import _check_same
from deme.data import InMemoryImages, every
from deme.data.digits import load_digits
from deme.evaluation.labels import distance_labels
from deme.metrics import FrechetDistance, Reference, Statistics, own_features, self_supervised
from deme.metrics.own_features import OwnFeatures
from deme.report import rows
from deme.report.notes import _other_metrics
from deme.report.rows import is_same_metric
from deme.report.statistics import RunSeeds
from deme.runs import MetricsSettings, build, compose_stage, identity_hash
from deme.system import BadConfig
from deme.system.paths import conf_dir
from tests.pipeline.program import TINY_EVALUATE, run

FEW_STEPS = "import deme.metrics.own_features as own; own.NUM_STEPS = 20"


@pytest.fixture(scope="module")
def digits():
    """Images to learn from, others that are altered, and the reference."""
    data = load_digits()
    train = every(data.train)
    return train[:900], train[900:], every(data.held_out)


@pytest.fixture(scope="module")
def distance(digits, tmp_path_factory):
    """The distance of images to the reference, after a fifth of the training."""
    learned, _, reference = digits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_features, "NUM_STEPS", 200)
        features = OwnFeatures(InMemoryImages(learned), tmp_path_factory.mktemp("cache"))
    frechet = FrechetDistance(Statistics().update(features(reference)))
    return lambda pixels: frechet(Statistics().update(features(pixels)))


def low_contrast(pixels, strength):
    mean = pixels.float().mean((1, 2, 3), keepdim=True)
    return (mean + (pixels.float() - mean) * strength).round().byte()


def shifted(pixels, strength):
    return torch.nn.functional.pad(pixels, (strength, 0))[..., : pixels.shape[-1]]


def mixed(pixels, strength):
    """Replace a share by negatives, which are no digits."""
    count = round(strength * len(pixels))
    return torch.cat([255 - pixels[:count], pixels[count:]])


def thinned(pixels, strength):
    """Leave out the brightest images, a share of all: modes are missing."""
    order = pixels.float().mean((1, 2, 3)).argsort()
    return pixels[order[: round((1 - strength) * len(pixels))]]


ALTERED = {
    noisy: (32, 64, 96),
    blurred: (0.5, 0.8, 1.2),
    low_contrast: (0.8, 0.6, 0.4),
    shifted: (1, 2),
    mixed: (0.05, 0.2, 0.5),
    thinned: (0.3, 0.5, 0.7),
}


@pytest.mark.parametrize("alter", ALTERED, ids=lambda alter: alter.__name__)
def test_altered_images_are_farther_away_the_more_so_the_stronger(alter, distance, digits):
    other = digits[1]
    found = [distance(other), *(distance(alter(other, strength)) for strength in ALTERED[alter])]
    assert found == sorted(found)
    assert found[-1] > 2 * found[0]


@pytest.fixture
def few(monkeypatch):
    """Training takes three steps."""
    monkeypatch.setattr(own_features, "NUM_STEPS", 3)


def pictures(number=120, channels=1, side=8, seed=0):
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (number, channels, side, side), generator=draw, dtype=torch.uint8)
    return InMemoryImages(pixels)


@pytest.mark.parametrize(
    ("channels", "side"), [(1, 8), (3, 9), (1, 28), (3, 32), (1, 33), (3, 64), (3, 80)]
)
def test_images_of_any_size_have_64_features(channels, side, few, tmp_path):
    images = pictures(100, channels, side)
    features = OwnFeatures(images, tmp_path)
    found = features(images.pixels[:5])
    assert (found.shape, found.dtype) == ((5, 64), torch.float32)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(features(images.pixels[3:5]), found[3:])
    with pytest.raises(BadConfig, match=f"data.size={side + 1}"):
        features(torch.zeros(2, channels, side + 1, side + 1, dtype=torch.uint8))


def test_quarter_turns_are_those_of_each_image():
    images = torch.arange(36.0).reshape(4, 1, 3, 3)
    found = self_supervised.rotated(images, torch.tensor([0, 1, 2, 3]))
    for number in range(4):
        assert torch.equal(found[number], torch.rot90(images[number], number, (1, 2)))


def test_the_same_images_give_the_same_weights_and_leave_random_numbers_alone(few, tmp_path):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    one = OwnFeatures(pictures(), tmp_path / "one")
    torch.manual_seed(5)
    torch.set_num_threads(2)
    try:
        other = OwnFeatures(pictures(), tmp_path / "other")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
    assert one.weights == other.weights
    assert one.name == other.name
    drawn = torch.rand(2)
    torch.set_rng_state(state)
    OwnFeatures(pictures(), tmp_path / "third")
    assert torch.equal(torch.rand(2), drawn)


def test_who_comes_at_the_same_time_waits_and_what_was_stopped_leaves_nothing(
    tmp_path, monkeypatch
):
    trained = []

    def train(images, num_steps):
        trained.append(num_steps)
        if len(trained) == 1:
            raise KeyboardInterrupt
        return self_supervised.SelfSupervised(1, 8)

    monkeypatch.setattr(own_features, "train", train)
    with pytest.raises(KeyboardInterrupt):
        OwnFeatures(pictures(), tmp_path)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: OwnFeatures(pictures(), tmp_path).weights, range(3)))
    assert len(set(found)) == 1
    assert len(trained) == 2
    (file,) = (file for file in tmp_path.rglob("*") if file.is_file())
    file.write_bytes(b"damaged")
    with pytest.raises(Exception, match=file.name):
        OwnFeatures(pictures(), tmp_path)


def test_scores_of_two_sets_of_training_images_are_not_compared(few, tmp_path):
    config = compose_stage("evaluate", ["metrics=own"])
    metrics = build(MetricsSettings, config["metrics"])
    reference = Reference(Statistics().update(torch.rand(9, 64)), None, "9 held-out images")

    def label(images):
        features = OwnFeatures(images, tmp_path)
        return distance_labels(metrics, features, reference, 50)["fd_own"]

    one, again, other = label(pictures()), label(pictures()), label(pictures(seed=1))
    assert is_same_metric(one, again)
    assert not is_same_metric(one, other)
    _check_same("fd_own", [one, again])
    with pytest.raises(BadConfig, match="fd_own is not the same metric"):
        _check_same("fd_own", [one, other])


def test_a_table_takes_no_difference_of_other_data_and_says_so():
    def measured(reference, value):
        entry = {"value": value, "n": 9, "reference": reference, "implementation": "i", "better": "lower"}  # fmt: skip
        return {RunSeeds(None, 0, None): {"metrics": {"fd_own": entry}, "replicates": {"fd_own": [value, value + 1]}}}  # fmt: skip

    before = measured("images (aaaa)", 2.0)
    same, other = (
        rows._number("fd_own", measured(f"images ({name})", 5.0), before)
        for name in ("aaaa", "bbbb")
    )
    assert same.difference.value == 3
    assert other.difference is None
    made = [rows.Row(name, name, {"fd_own": number}, (), 0, None)
            for name, number in (("first", same), ("second", other))]  # fmt: skip
    (note,) = _other_metrics({"fd_own": same.about}, made)
    assert "second" in note
    assert "bbbb" in note


def test_the_identity_of_an_evaluation_holds_the_training_images_and_the_recipe(tmp_path):
    for name, text in (("one", "a"), ("copy", "a"), ("other", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "image.png").write_text(text)

    def identity(name, recipe=1):
        words = ["metrics=own", "data=image_folder", f"data.path={tmp_path / name}"]
        config = compose_stage("evaluate", [*words, f"metrics.features.own.recipe={recipe}"])
        return identity_hash(config, "evaluate", {})

    assert identity("one") == identity("copy")
    assert identity("one") != identity("other")
    assert identity("one") != identity("one", recipe=2)
    assert f"recipe: {own_features.RECIPE} " in (conf_dir() / "metrics" / "own.yaml").read_text()


def test_what_nothing_can_be_learned_from_is_refused(few, tmp_path):
    for images, advice in (
        (pictures(99), "type: metrics=loss"),
        (pictures(side=7), "type: metrics=loss"),
        (InMemoryImages(pictures(side=16).pixels[..., :8]), "type: metrics=loss"),
        (None, "type: data="),
    ):
        with pytest.raises(BadConfig, match=advice):
            OwnFeatures(images, tmp_path)
    with pytest.raises(BadConfig, match="type: metrics=own"):
        OwnFeatures(pictures(), tmp_path, recipe=2)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_it_is_a_metric_like_the_others(tmp_path):
    """Evaluated by processes that share a cache, audited, and measured for `deme stats`."""
    words = ["metrics=own", f"paths.cache={tmp_path / 'cache'}"]
    code, text = run(["evaluate", *TINY_EVALUATE, *words], tmp_path, FEW_STEPS)
    assert code == 0, text
    (made,) = tmp_path.glob("runs/*/evaluate/*/metrics.json")
    found = json.loads(made.read_text())["metrics"]
    assert {"fd_own", "loss"} <= found.keys()
    assert "1,438 training images" in found["fd_own"]["implementation"]
    code, text = run(
        ["verify", f"run={made.parent}", "num_images=16", words[1]], tmp_path, FEW_STEPS
    )
    assert code == 0, text
    code, text = run(["stats", *words, "out=own.npz"], tmp_path, FEW_STEPS)
    assert code == 0, text
    assert len(list(Path(tmp_path, "cache", "extractors").iterdir())) == 1
