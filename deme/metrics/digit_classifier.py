"""The feature extractor behind `fd_digits`: a small convolutional classifier of 8 x 8 digits."""

import torch
from torch import Tensor, nn

from deme.data.pixels import to_float
from deme.diffusion import generator
from deme.metrics.features import FeatureExtractor, read_into, weights_file
from deme.metrics.image_classifier import train_classifier
from deme.system import BadConfig


class DigitClassifier(nn.Module):
    """Classify grey images [B, 1, 8, 8] in -1..1; `body` returns 64 penultimate activations."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 64),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


def as_digits(pixels: Tensor, metric: str) -> Tensor:
    """Return uint8 images [B, 1, 8, 8] in -1..1, and [B, 3, 16, 16] after averaging.

    Colour images are averaged over channels and 2 x 2 pixels. Raises BadConfig for other shapes.
    """
    shape = tuple(pixels.shape[1:])
    if shape == (3, 16, 16):
        return to_float(nn.functional.avg_pool2d(pixels.float().mean(1, keepdim=True), 2))
    if shape != (1, 8, 8):
        raise BadConfig(
            f"{metric} measures images of shape (1, 8, 8) or (3, 16, 16), got {shape}\n"
            "type: metrics=<option for such images>, or metrics=loss"
        )
    return to_float(pixels)


def load_classifier(path: str, sha256: str | None = None) -> tuple[DigitClassifier, str]:
    """Return a saved classifier and the sha256 of its file. Raises BadConfig for other files."""
    place, found = weights_file(path, sha256)
    classifier = DigitClassifier().eval()
    read_into(
        classifier,
        place,
        f"{place} holds no digit classifier\ntype: metrics=<option for another extractor>",
    )
    return classifier, found


class DigitFeatures(FeatureExtractor):
    """Map uint8 images [B, 1, 8, 8] or [B, 3, 16, 16] to float32 features [B, 64]."""

    name = "digit classifier, 64 penultimate activations"
    suffix = "digits"
    frechet_name = "fd_digits"
    dimension = 64

    def __init__(self, path: str, sha256: str | None = None) -> None:
        self.network, self.weights = load_classifier(path, sha256)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        return self.network.body(as_digits(pixels.to(self.device), self.frechet_name)).cpu()


def train_digit_classifier(
    pixels: Tensor, labels: Tensor, seed: int = 0, num_steps: int = 1500
) -> DigitClassifier:
    """Train on uint8 images [N, 1, 8, 8] with AdamW, learning rate 1e-3, batches of 128."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = DigitClassifier()
    train_classifier(classifier, pixels, labels, generator("digit classifier", seed), num_steps)
    return classifier
