"""The feature extractor behind `fd_digits`: a small convolutional classifier of the 8 x 8 digits."""

import torch
from torch import Tensor, nn

from deme import files
from deme.data import to_float
from deme.errors import BadConfig
from deme.metrics.features import read_weights, weights_file
from deme.seeds import generator


class DigitClassifier(nn.Module):
    """Classify grey 8 x 8 images [B, 1, 8, 8] in -1..1; `features` are the 64 activations before the last layer."""

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


class DigitFeatures:
    """Map uint8 images [B, 1, 8, 8] to float32 features [B, 64] with a saved classifier."""

    name = "digit classifier, 64 penultimate activations"
    suffix = "digits"
    frechet_name = "fd_digits"
    dimension = 64

    def __init__(self, path: str, sha256: str | None = None) -> None:
        place = weights_file(path, sha256)
        self.weights = files.sha256(place)
        self.classifier = DigitClassifier().eval()
        state = read_weights(place)
        expected = {name: value.shape for name, value in self.classifier.state_dict().items()}
        if expected != {name: value.shape for name, value in state.items()}:
            raise BadConfig(f"{place} holds no digit classifier\ntype: metrics=<option> for another extractor")
        self.classifier.load_state_dict(state)
        self.device = "cpu"

    def to(self, device: str) -> "DigitFeatures":
        """Move the classifier to a device and return self."""
        self.classifier.to(device)
        self.device = device
        return self

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        if tuple(pixels.shape[1:]) != (1, 8, 8):
            raise BadConfig(f"fd_digits measures grey 8 x 8 images, got {tuple(pixels.shape[1:])}; choose metrics=loss")
        return self.classifier.body(to_float(pixels.to(self.device))).cpu()


def train_classifier(pixels: Tensor, labels: Tensor, seed: int = 0, num_steps: int = 1500) -> DigitClassifier:
    """Train on uint8 images [N, 1, 8, 8] with AdamW, lr 1e-3, batches of 128."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = DigitClassifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-3, weight_decay=1e-2)
    draw = generator("digit classifier", seed)
    images = to_float(pixels)
    for _ in range(num_steps):
        rows = torch.randint(len(images), (128,), generator=draw)
        loss = nn.functional.cross_entropy(classifier(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classifier.eval()
