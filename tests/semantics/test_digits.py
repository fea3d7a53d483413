"""The embedded default: real images, a held-out fifth, a base that was pretrained, a distance that ranks."""

import hashlib
from pathlib import Path

import pytest
import torch

from deme.data import every
from deme.data.digits import load_digits, pixels_and_labels, split
from deme.data.pixels import to_float
from deme.diffusion import uniform
from deme.metrics import FrechetDistance, Statistics, denoising_loss, fixed_triples
from deme.metrics.digit_classifier import DigitFeatures, train_digit_classifier
from deme.models.loading import load_pretrained
from deme.system import locate, read_about
from deme.system.paths import PACKAGE

FEATURES = "asset:digits_classifier.safetensors"


def test_a_fifth_of_every_digit_is_held_out_and_nothing_is_in_both():
    _, labels = pixels_and_labels()
    train, held_out = split(labels)
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(1797))
    share = torch.bincount(labels[held_out]) / torch.bincount(labels)
    assert ((share - 0.2).abs() < 0.01).all()
    data = load_digits()
    assert (len(data.train), len(data.held_out)) == (len(train), len(held_out)) == (1438, 359)


def test_shipped_files_are_those_whose_sums_are_recorded():
    for line in (PACKAGE / "assets" / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256(Path(PACKAGE / "assets" / name).read_bytes()).hexdigest() == digest


def test_better_samples_score_lower():
    data = load_digits()
    features = DigitFeatures(FEATURES)
    distance = FrechetDistance(Statistics().update(features(every(data.held_out))))
    pixels = every(data.train)

    def score(images):
        return distance(Statistics().update(features(images)))

    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    noisy = [(pixels.float() + s * noise).clamp(0, 255).round().byte() for s in (0, 10, 30, 90)]
    scores = [score(images) for images in noisy]
    assert scores == sorted(scores)
    assert (
        score(pixels[:1].expand(500, -1, -1, -1) ^ (noise[:500] > 2).byte()) > 20 * scores[0]
    )  # a collapsed generator


def test_the_classifier_is_the_one_its_script_makes():
    pixels, labels = pixels_and_labels()
    train, held_out = split(labels)
    again = train_digit_classifier(pixels[train], labels[train], num_steps=300)
    shipped = DigitFeatures(FEATURES).network
    with torch.no_grad():
        right = [
            float((c(to_float(pixels[held_out])).argmax(1) == labels[held_out]).float().mean())
            for c in (again, shipped)
        ]
    assert right[0] > 0.95
    assert right[1] > 0.98


def test_the_base_denoises_held_out_digits_in_every_range():
    model = load_pretrained("asset:digits_base")
    triples = fixed_triples(load_digits().held_out, uniform(4, 1000), 2, seed=0)
    losses = denoising_loss(model, model.schedule, model.prediction_type, triples).mean(1)
    assert sum(p.numel() for p in model.parameters()) == 40_489
    for loss, limit in zip(losses.tolist(), (0.27, 0.07, 0.01, 0.0015), strict=True):
        assert loss < limit


def test_averaging_the_short_pretraining_lowers_its_loss():
    triples, losses = fixed_triples(load_digits().held_out, uniform(4, 1000), 2, seed=0), {}
    for weights in ("raw", "ema"):
        place = f"asset:digits_short/{weights}"
        assert read_about(locate(place))["ema"] == (weights == "ema")
        model = load_pretrained(place)
        loss = denoising_loss(model, model.schedule, model.prediction_type, triples)
        losses[weights] = float(loss.mean())
    assert losses["ema"] < 0.99 * losses["raw"]


def test_features_of_other_images_are_refused():
    with pytest.raises(ValueError, match=r"got \(3, 32, 32\)\ntype: metrics="):
        DigitFeatures(FEATURES)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
