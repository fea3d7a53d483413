"""Several sets of images as one."""

import torch

from deme.builders.metrics import load_reference
from deme.data import ImageData, InMemoryImages, JoinedImages
from deme.metrics.digit_classifier import DigitFeatures
from deme.runs import MetricsSettings, build, compose_stage


def numbered(*numbers):
    return InMemoryImages(
        torch.tensor(numbers, dtype=torch.uint8)[:, None, None, None]
        .expand(-1, 1, 8, 8)
        .contiguous()
    )


def test_joined_sets_are_one_set_after_the_other():
    one, other = numbered(10, 11, 12), numbered(20, 21)
    both = JoinedImages([one, other])
    assert len(both) == 5
    assert both.__getitems__([4, 0, 2, 3, 3])[:, 0, 0, 0].tolist() == [21, 10, 12, 20, 20]
    assert both.content_hash() != JoinedImages([other, one]).content_hash()


def test_the_reference_all_is_every_image(tmp_path):
    features = DigitFeatures("asset:digits_classifier.safetensors")
    train, held_out = numbered(*range(0, 60, 2)), numbered(*range(100, 200, 5))
    config = compose_stage("evaluate", ["metrics.reference=all", "metrics.kid=false"])
    metrics = build(MetricsSettings, config["metrics"])
    reference = load_reference(metrics, ImageData(train, held_out), features, tmp_path)
    found = features(torch.cat([train.pixels, held_out.pixels])).double()
    assert reference.statistics.count == 50
    torch.testing.assert_close(reference.statistics.mean, found.mean(0))
    torch.testing.assert_close(reference.statistics.covariance, torch.cov(found.T))
    assert reference.name.startswith("50 images (")
