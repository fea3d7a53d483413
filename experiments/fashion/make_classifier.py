"""Train the classifier behind `fd_fashion` on the training images; write it as safetensors.

`make fashion-classifier` writes the one that the package comes with.
"""

import argparse
from pathlib import Path

import torch

from deme.data.decode import resized
from deme.data.fashion_mnist import read_images, read_labels
from deme.data.pixels import to_float
from deme.diffusion import generator
from deme.metrics.image_classifier import SIZE, ImageClassifier, train_classifier
from deme.system import tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="the folder of Fashion-MNIST's files")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=8000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pixels, test = (resized(read_images(given.data, part), SIZE) for part in ("train", "t10k"))
    labels, answers = (read_labels(given.data, part) for part in ("train", "t10k"))
    torch.manual_seed(0)
    classifier = ImageClassifier()
    train_classifier(classifier, pixels, labels, generator("fashion classifier", 0), given.steps)
    with torch.inference_mode():
        right = classifier(to_float(test)).argmax(1) == answers
    tensors.save(given.out, classifier.state_dict())
    print(f"{given.out}: {right.float().mean():.3f} of {len(test):,} test images right")


if __name__ == "__main__":
    main()
