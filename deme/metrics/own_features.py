"""The feature extractor of `fd_own`: a small network trained on the user's training images.

It needs no labels and no download. It is trained once, and cached by a hash of the images and the
version of the recipe.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from deme.data import Images, batches
from deme.diffusion import generator
from deme.metrics.features import FeatureExtractor, read_into
from deme.metrics.self_supervised import (
    DIMENSION,
    LARGEST,
    SMALLEST,
    as_input,
    new_network,
    train,
)
from deme.system import BadConfig, files, locked, logger, tensors

RECIPE = 1  # increased by each change of network or training, which changes the features
FEWEST = 100  # the fewest training images that features are learned from
MOST = 5000  # the most training images that are used, chosen at random
READ = 100  # images read at once
NUM_STEPS = 1000  # training steps


class OwnFeatures(FeatureExtractor):
    """Map uint8 images [B, C, H, H] of the training images' shape to float32 features [B, 64].

    `images` are the training images; `recipe` is the version of the network and its training.
    Raises BadConfig for fewer than 100 images, for images smaller than 8 x 8 pixels or not square,
    and for another version.
    """

    suffix = "own"
    frechet_name = "fd_own"
    dimension = DIMENSION

    def __init__(self, images: Images | None, cache: Path, recipe: int = RECIPE) -> None:
        images = _checked(images, recipe)
        self.shape = tuple(images.__getitems__([0]).shape[1:])
        if self.shape[1] != self.shape[2] or self.shape[1] < SMALLEST:
            raise BadConfig(
                f"fd_own measures square images of at least {SMALLEST} x {SMALLEST} pixels; the "
                f"training images have shape {self.shape}\ntype: metrics=loss"
            )
        content = images.content_hash()
        self.name = (
            f"own network of {len(images):,} training images ({content[:8]}), version {recipe}, "
            "64 penultimate activations"
        )
        parts = [content, len(images), recipe, NUM_STEPS]
        key = files.sha256_text(json.dumps(parts))[:32]
        place = cache / "extractors" / f"{key}.safetensors"
        if not place.exists():
            _make(images, place)
        self.weights = files.sha256(place)
        self.network = new_network(self.shape[0], min(self.shape[1], LARGEST)).eval()
        read_into(
            self.network,
            place,
            f"{place} is not the network of these training images\ndelete it and run again",
        )

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        if tuple(pixels.shape[1:]) != self.shape:
            raise BadConfig(
                f"fd_own measures images of the training images' shape {self.shape}, "
                f"got {tuple(pixels.shape[1:])}\n"
                f"type: data=<images of that shape>, data.size={pixels.shape[2]}, or metrics=loss"
            )
        return self.network.body(as_input(pixels.to(self.device))).cpu()


def _checked(images: Images | None, recipe: int) -> Images:
    """Return the training images. Raises BadConfig if no features can be learned from them."""
    if images is None:
        raise BadConfig(
            "fd_own learns its features from training images, and data=none\n"
            "type: data=<your images>, or another metrics=<option>"
        )
    if recipe != RECIPE:
        raise BadConfig(
            f"fd_own of version {recipe} was made by another version of deme; this one makes "
            f"version {RECIPE}\ntype: metrics=own"
        )
    if len(images) < FEWEST:
        raise BadConfig(
            f"fd_own learns its features from at least {FEWEST} training images; the data set has "
            f"{len(images)}\ntype: metrics=loss, or give more images"
        )
    return images


def _make(images: Images, place: Path) -> None:
    """Train the network and write its weights; other processes wait for the one that trains."""
    with locked(
        place.with_suffix(".lock"),
        lambda owner: logger.info("%s is training the network of fd_own; waiting for it", owner),
        remove=True,
    ):
        if place.exists():
            return
        logger.info(
            "fd_own: training a small network on the training images, once; it is kept in %s", place
        )
        order = torch.randperm(len(images), generator=generator("own features", len(images)))
        chosen = order[:MOST].sort().values.tolist()
        pictures = torch.cat([as_input(batch) for batch in batches(images, READ, chosen)])
        tensors.save(place, train(pictures, NUM_STEPS).state_dict())
