"""Train the classifier behind `fd_digits` on the training digits; write it as safetensors.

This is part of `make pretrain-digits`.
"""

import argparse
from pathlib import Path

import torch

from deme.data.digits import pixels_and_labels, split
from deme.data.pixels import to_float
from deme.metrics.digit_classifier import train_digit_classifier
from deme.system import tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    pixels, labels = pixels_and_labels()
    train, held_out = split(labels)
    classifier = train_digit_classifier(pixels[train], labels[train])
    with torch.inference_mode():
        right = classifier(to_float(pixels[held_out])).argmax(1) == labels[held_out]
    tensors.save(out, classifier.state_dict())
    print(f"{out}: {right.float().mean():.3f} of {len(held_out)} held-out digits right")


if __name__ == "__main__":
    main()
