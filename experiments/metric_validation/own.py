"""How far altered real images are in `fd_own`, as multiples of the distance of unaltered ones.

Writes a CSV: of the digits beside `fd_digits`, and of clothes, in the features that a network
learned from other images of the same set. `docs/metrics.md#own-validation` says what came out.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from deme.analysis.metric_validation import blurred, compressed, noisy
from deme.data import InMemoryImages, every
from deme.data.digits import load_digits
from deme.data.fashion_mnist import read_images, read_labels
from deme.data.pixels import to_float
from deme.metrics import FeatureExtractor, FrechetDistance, Statistics
from deme.metrics.digit_classifier import DigitFeatures
from deme.metrics.own_features import OwnFeatures

RESAMPLES = 20
ALTERATIONS = {"noise": noisy, "blur": blurred, "jpeg": compressed}
STRENGTHS = {
    "noise": (8, 16, 32),
    "jpeg": (90, 60, 20),
    "contrast": (0.9, 0.8, 0.6),
    "classes left out": (1, 2, 5),
    "images of another kind": (0.02, 0.05, 0.2),
}
OF_SET = {  # strengths in pixels
    "digits": {"blur": (0.3, 0.5, 0.8), "shift": (1, 2)},
    "clothes": {"blur": (0.4, 0.6, 1.0), "shift": (1, 2, 4)},
}


def low_contrast(pixels: Tensor, strength: float) -> Tensor:
    mean = pixels.float().mean((1, 2, 3), keepdim=True)
    return (mean + (pixels.float() - mean) * strength).clamp(0, 255).round().byte()


def shifted(pixels: Tensor, strength: float) -> Tensor:
    padded = nn.functional.pad(pixels.float(), (int(strength), 0, 0, 0), mode="replicate")
    return padded[..., : pixels.shape[-1]].byte()


ALTERATIONS |= {"contrast": low_contrast, "shift": shifted}


def altered(
    which: str, pixels: Tensor, labels: Tensor, others: Tensor
) -> Iterator[tuple[str, float, Tensor]]:
    """Yield alteration, strength and the altered images."""
    for name, strengths in (STRENGTHS | OF_SET[which]).items():
        for strength in strengths:
            count = int(strength * len(pixels))
            if name == "classes left out":
                yield name, strength, pixels[labels >= strength]
            elif name == "images of another kind":
                yield name, strength, torch.cat([pixels[: len(pixels) - count], others[:count]])
            else:
                yield name, strength, ALTERATIONS[name](pixels, strength)


def rows(
    which: str, extractor: FeatureExtractor, reference: Tensor, *images: Tensor
) -> Iterator[tuple[str, str, str, float, float]]:
    distance = FrechetDistance(Statistics().update(extractor(reference)))
    features = extractor(images[0])
    base, draw = distance(Statistics().update(features)), torch.Generator().manual_seed(0)
    picks = torch.randint(len(features), (RESAMPLES, len(features)), generator=draw)
    resampled = torch.tensor([distance(Statistics().update(features[each])) for each in picks])
    name = extractor.frechet_name
    yield which, name, "unaltered (standard deviation)", float(resampled.std()) / base, base
    for kind, strength, pixels in altered(which, *images):
        found = distance(Statistics().update(extractor(pixels)))
        yield which, name, f"{kind} {strength:g}", found / base, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="the folder of Fashion-MNIST's files")
    parser.add_argument("out", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("build/own_validation"))
    parser.add_argument("--sets", nargs="+", choices=OF_SET, default=list(OF_SET))
    given = parser.parse_args()
    torch.set_num_threads(1)
    data, clothes = load_digits(), read_images(given.data, "train")
    digits, held_out = every(data.train), every(data.held_out)
    classifier, found = DigitFeatures("asset:digits_classifier.safetensors"), []
    if "digits" in given.sets:
        own = OwnFeatures(InMemoryImages(digits[:900]), given.cache)
        with torch.inference_mode():
            labels = classifier.network(to_float(digits[900:])).argmax(1)
        others = nn.functional.interpolate(clothes[:1000].float(), 8, mode="area").byte()
        for extractor in (own, classifier):
            found += rows("digits", extractor, held_out, digits[900:], labels, others)
    if "clothes" in given.sets:
        own = OwnFeatures(InMemoryImages(clothes[:2000]), given.cache)
        others = nn.functional.interpolate(digits.float(), 28, mode="bilinear").byte()
        labels = read_labels(given.data, "train")[10_000:11_000]
        test = read_images(given.data, "t10k")[:1000]
        found += rows("clothes", own, test, clothes[10_000:11_000], labels, others)
    with open(given.out, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["images", "metric", "alteration", "multiple", "value"])
        writer.writerows((*names, f"{a:.3f}", f"{b:.4f}") for *names, a, b in found)


if __name__ == "__main__":
    main()
