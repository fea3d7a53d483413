"""What the numbers mean: damage scores worse, in order; a collapsed generator is precise and recalls little."""

import numpy as np
import pytest
import torch

from deme.analysis.metric_validation import ALTERATIONS
from deme.data import every
from deme.data.digits import load_digits
from deme.metrics import FrechetDistance, Statistics, kernel_distance, precision_recall
from deme.metrics.digit_classifier import DigitFeatures

STRENGTHS = {"noise": (10, 30, 90), "blur": (0.3, 0.6, 1.2), "jpeg": (90, 40, 5)}


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return (
        DigitFeatures("asset:digits_classifier.safetensors"),
        every(data.train),
        every(data.held_out),
    )


@pytest.mark.parametrize("kind", STRENGTHS)
def test_more_damage_is_worse_in_every_distance(digits, kind):
    features, train, held_out = digits
    reference = features(held_out)
    distance = FrechetDistance(Statistics().update(reference))
    sets = [train, *(ALTERATIONS[kind][0](train, strength) for strength in STRENGTHS[kind])]
    found = [features(pixels) for pixels in sets]
    frechet = [distance(Statistics().update(each)) for each in found]
    kernel = [kernel_distance(each, reference).value for each in found]
    assert frechet == sorted(frechet)
    assert kernel == sorted(kernel)
    assert frechet[-1] > 3 * frechet[0]


def test_alterations_do_what_their_names_say():
    pixels = torch.full((4, 3, 16, 16), 128, dtype=torch.uint8)
    noise = ALTERATIONS["noise"][0](pixels, 8.0).float() - 128
    assert float(noise.std()) == pytest.approx(8, rel=0.1)
    assert torch.equal(ALTERATIONS["blur"][0](pixels, 1.0), pixels)
    spot = torch.zeros(1, 1, 15, 15, dtype=torch.uint8)
    spot[0, 0, 7, 7] = 255
    blurred = ALTERATIONS["blur"][0](spot, 1.0)
    assert int(blurred[0, 0, 7, 7]) == pytest.approx(255 / (2 * np.pi), abs=3)
    checks = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 255
    rough = checks.byte().expand(1, 3, 16, 16)
    errors = [
        float((ALTERATIONS["jpeg"][0](rough, q).float() - rough.float()).abs().mean())
        for q in (95, 5)
    ]
    assert errors[0] < errors[1]
    assert ALTERATIONS["jpeg"][0](rough[:, :1], 95).shape == (1, 1, 16, 16)


def test_a_collapsed_generator_is_precise_and_recalls_little(digits):
    features, train, held_out = digits
    reference = features(held_out)
    jitter = 0.01 * torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    collapsed = precision_recall(features(train[:1]).expand(300, -1) + jitter, reference, 5)
    honest = precision_recall(features(train[:300]), reference, 5)
    assert collapsed["precision"] > 0.9
    assert collapsed["recall"] < 0.1
    assert collapsed["coverage"] < 0.1
    assert honest["precision"] > 0.9
    assert honest["recall"] > 0.8
    noise = precision_recall(features(torch.randint_like(train[:300], 256)), reference, 5)
    assert noise["precision"] < 0.5


def test_a_set_recalls_and_covers_itself_and_too_few_are_refused(digits):
    features, _, held_out = digits
    reference = features(held_out)
    itself = precision_recall(reference, reference, 3)
    assert (itself["precision"], itself["recall"], itself["coverage"]) == (1, 1, 1)
    with pytest.raises(ValueError, match="need 7 images on each side, got 6 and 359"):
        precision_recall(reference[:6], reference, 5)
