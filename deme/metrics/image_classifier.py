"""Features of small classifiers of 16 x 16 images, for data sets that Inception does not fit."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from deme.data.pixels import to_float
from deme.metrics.features import FeatureExtractor, read_into, weights_file
from deme.system import BadConfig, is_file_name

SIZE = 16  # pixels per side


class ImageClassifier(nn.Module):
    """Classify images [B, channels, 16, 16] in -1..1 into ten classes.

    `body` returns 64 penultimate activations.
    """

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = (channels, 16, 32, 48, 64)
        for taken, made in pairwise(widths):
            layers += [nn.Conv2d(taken, made, 3, padding=1), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if made > widths[1] else []
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class ClassifierFeatures(FeatureExtractor):
    """Map uint8 images [B, channels, 16, 16] to float32 features [B, 64].

    `metric` names the Frechet distance, such as fd_fashion. Raises BadConfig for a file that holds
    another network, or images of another shape.
    """

    name = "classifier of 16 x 16 images, 64 penultimate activations"
    dimension = 64

    def __init__(
        self, path: str, metric: str, channels: int = 1, sha256: str | None = None
    ) -> None:
        if not is_file_name(metric) or not metric.startswith("fd_"):
            raise BadConfig(f"a distance is called fd_<name>, such as fd_fashion; got {metric!r}")
        self.frechet_name, self.suffix = metric, metric.removeprefix("fd_")
        self.shape = (channels, SIZE, SIZE)
        place, self.weights = weights_file(path, sha256)
        self.network = ImageClassifier(channels).eval()
        read_into(
            self.network,
            place,
            f"{place} holds no classifier of {channels} x {SIZE} x {SIZE} images\n"
            "make one: python experiments/fashion/make_classifier.py --help",
        )

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        if tuple(pixels.shape[1:]) != self.shape:
            raise BadConfig(
                f"{self.frechet_name} measures images of shape {self.shape}, "
                f"got {tuple(pixels.shape[1:])}\n"
                "type: metrics=<option for such images>, or metrics=loss"
            )
        return self.network.body(to_float(pixels.to(self.device))).cpu()


def train_classifier(
    classifier: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    draw: torch.Generator,
    num_steps: int,
) -> None:
    """Train on uint8 images [N, C, H, W] with AdamW, learning rate 1e-3, batches of 128."""
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-3, weight_decay=1e-2)
    images = to_float(pixels)
    for _ in range(num_steps):
        rows = torch.randint(len(images), (128,), generator=draw)
        loss = nn.functional.cross_entropy(classifier(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    classifier.eval()
