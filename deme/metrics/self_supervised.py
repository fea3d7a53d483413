"""A small network that learns from images without labels: what is on them, and how they are turned.

Two tasks at once, as Feng, Xu and Tao 2019 (Self-Supervised Representation Learning by Rotation
Feature Decoupling): each image is shown turned by 0, 90, 180 or 270 degrees, and the network says
by which (RotNet, Gidaris et al. 2018); and of all images of a batch it finds the other view of the
same one (SimCLR's loss, Chen et al. 2020), where a view is a little shifted and has a square
erased. No view has other noise, blur, contrast or colours, so that the features keep these.
"""

from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from deme.data.pixels import to_float
from deme.diffusion import generator, seeded
from deme.system import progress

DIMENSION = 64  # features per image
SMALLEST, LARGEST = 8, 64  # pixels per side that the network sees; larger images are reduced
FULL = 32  # pixels per side up to which the first layer keeps every pixel
WIDTHS = (16, 32, 64, 64)  # channels of the layers, each at half the side of the one before
LAST = 4  # pixels per side of the last layer
TURNS = 4  # quarter turns
PROJECTED = 64  # numbers per view in which the other view is looked for
TEMPERATURE = 0.2  # of their cosines
SHIFT, ERASED = 1 / 8, 1 / 3  # of the side: the largest shift of a view, its erased square
BATCH = 64  # images of a training step, two views of each
LEARNING_RATE = 2e-3  # at its highest


class SelfSupervised(nn.Module):
    """Take images [B, channels, side, side] in -1..1, with `side` between 8 and 64.

    `body` returns the features [B, 64]; `turns` makes scores of quarter turns of them, [B, 4], and
    `project` numbers by which views are compared, [B, 64].
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        stride = 1 if side <= FULL else 2
        layers: list[nn.Module] = [
            nn.Conv2d(channels, WIDTHS[0], 3, stride=stride, padding=1),
            nn.ReLU(),
        ]
        side, last = -(-side // stride), WIDTHS[0]
        for taken, made in pairwise(WIDTHS):
            if side > LAST:
                layers += [nn.Conv2d(taken, made, 3, stride=2, padding=1), nn.ReLU()]
                side, last = -(-side // 2), made
        self.body = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(last * side * side, DIMENSION), nn.ReLU()
        )
        self.turns = nn.Linear(DIMENSION, TURNS)
        self.project = nn.Linear(DIMENSION, PROJECTED)


def new_network(channels: int, side: int) -> SelfSupervised:
    """Return the network with its first random weights, which are always the same."""
    with seeded(torch.device("cpu"), "self-supervised"):
        return SelfSupervised(channels, side)


def as_input(pixels: Tensor) -> Tensor:
    """Return uint8 images [B, C, H, H] in -1..1, of at most 64 pixels per side.

    Larger ones are reduced by torch's antialiased bilinear filter.
    """
    images = to_float(pixels)
    if max(images.shape[2:]) <= LARGEST:
        return images
    return nn.functional.interpolate(images, LARGEST, mode="bilinear", antialias=True)


def turned(images: Tensor, turns: Tensor) -> Tensor:
    """Return images [B, C, H, H] turned by quarter turns [B] in 0..3."""
    found = images.clone()
    for number in range(1, TURNS):
        found[turns == number] = torch.rot90(images[turns == number], number, (2, 3))
    return found


def view(images: Tensor, draw: Generator) -> Tensor:
    """Return images [B, C, H, H], each shifted at random, with a random square of it grey.

    What a shift uncovers repeats the edge.
    """
    count, side = len(images), images.shape[2]
    shift, hole = max(1, round(SHIFT * side)), round(ERASED * side)
    padded = nn.functional.pad(images, (shift,) * 4, mode="replicate")
    place = torch.arange(side)
    down, right = torch.randint(2 * shift + 1, (2, count, 1), generator=draw) + place
    shifted = padded.movedim(1, 3)[
        torch.arange(count)[:, None, None], down[:, :, None], right[:, None, :]
    ].movedim(3, 1)
    first = torch.randint(side - hole + 1, (2, count, 1), generator=draw)
    rows, columns = (first <= place) & (place < first + hole)
    return shifted.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def contrast(one: Tensor, other: Tensor) -> Tensor:
    """Return SimCLR's loss (NT-Xent) of two views [B, d] of the same images."""
    both = nn.functional.normalize(torch.cat([one, other]), dim=1)
    cosines = (both @ both.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return nn.functional.cross_entropy(cosines, torch.arange(len(both)).roll(len(one)))


def train(images: Tensor, num_steps: int) -> SelfSupervised:
    """Train on images [N, C, H, H] in -1..1, on the CPU, in one thread.

    AdamW, one cycle of the learning rate, fixed random numbers: the same images give the same
    weights, however many threads the process has. Another processor or version of torch may round
    differently.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = new_network(*images.shape[1:3])
        _fit(network, images, num_steps)
    finally:
        torch.set_num_threads(num_threads)
    return network.eval()


def _fit(network: SelfSupervised, images: Tensor, num_steps: int) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=max(2, num_steps)
    )
    draw = generator("self-supervised")
    batch = min(BATCH, len(images))
    with (
        torch.enable_grad(),
        progress("learning features of the training images", num_steps, "steps") as bar,
    ):
        for _ in range(num_steps):
            rows = torch.randperm(len(images), generator=draw)[:batch]
            turns = torch.randint(TURNS, (batch,), generator=draw)
            shown = turned(images[rows], turns)
            features = network.body(torch.cat([view(shown, draw), view(shown, draw)]))
            loss = contrast(*network.project(features).chunk(2))
            loss = loss + nn.functional.cross_entropy(network.turns(features), turns.repeat(2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.advance(loss=f"{loss.item():.3f}")
