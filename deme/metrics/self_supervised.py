"""A small network that learns features of images without labels, from two tasks at once.

After Feng, Xu and Tao 2019 (Self-Supervised Representation Learning by Rotation Feature
Decoupling): each image is rotated by 0, 90, 180 or 270 degrees, and the network predicts the
rotation (RotNet, Gidaris et al. 2018, arXiv 1803.07728); and for each image of a batch it finds the
other view of the same image (SimCLR's loss, Chen et al. 2020, arXiv 2002.05709). A view is shifted
a little and has a square erased. Views do not change noise, blur, contrast or colours, so that the
features remain sensitive to these.
"""

from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from deme.data.pixels import to_float
from deme.diffusion import generator, seeded
from deme.system import progress

DIMENSION = 64  # features per image
SMALLEST, LARGEST = 8, 64  # pixels per side of the input; larger images are reduced
FULL = 32  # pixels per side up to which the first layer has stride 1
WIDTHS = (16, 32, 64, 64)  # channels of the layers, each at half the resolution of the last
LAST = 4  # pixels per side at which the layers end
TURNS = 4  # quarter turns
PROJECTED = 64  # dimension of the projection, in which views are compared
TEMPERATURE = 0.2  # of the contrastive loss
SHIFT, ERASED = 1 / 8, 1 / 3  # largest shift and erased square, as shares of the side
BATCH = 64  # images of a training step, two views of each
LEARNING_RATE = 2e-3  # the maximum of the schedule


class SelfSupervised(nn.Module):
    """A network for images [B, channels, side, side] in -1..1, with `side` between 8 and 64.

    `body` returns features [B, 64]; from these, `turns` returns logits of the four rotations [B,
    4], and `project` the vectors by which views are compared [B, 64].
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
    """Return the network with random initial weights from a fixed seed."""
    with seeded(torch.device("cpu"), "self-supervised"):
        return SelfSupervised(channels, side)


def as_input(pixels: Tensor) -> Tensor:
    """Map uint8 images [B, C, H, H] to -1..1 and to at most 64 x 64 pixels.

    Larger images are reduced by torch's antialiased bilinear filter.
    """
    images = to_float(pixels)
    if max(images.shape[2:]) <= LARGEST:
        return images
    return nn.functional.interpolate(images, LARGEST, mode="bilinear", antialias=True)


def rotated(images: Tensor, turns: Tensor) -> Tensor:
    """Return images [B, C, H, H] rotated by `turns` [B] in 0..3 quarter turns."""
    found = images.clone()
    for number in range(1, TURNS):
        found[turns == number] = torch.rot90(images[turns == number], number, (2, 3))
    return found


def random_view(images: Tensor, draw: Generator) -> Tensor:
    """Return images [B, C, H, H], each shifted at random and with a random square set to 0.

    Pixels that the shift uncovers repeat the border.
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


def contrastive_loss(one: Tensor, other: Tensor) -> Tensor:
    """Return SimCLR's loss of two views [B, d] of the same images (arXiv 2002.05709, eq. 1)."""
    both = nn.functional.normalize(torch.cat([one, other]), dim=1)
    cosines = (both @ both.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return nn.functional.cross_entropy(cosines, torch.arange(len(both)).roll(len(one)))


def train(images: Tensor, num_steps: int) -> SelfSupervised:
    """Train on images [N, C, H, H] in -1..1, on the CPU, in one thread.

    AdamW with a one-cycle learning rate and a fixed seed: the same images give the same weights,
    whatever the number of threads. Another processor or version of torch may round differently.
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
            shown = rotated(images[rows], turns)
            features = network.body(torch.cat([random_view(shown, draw), random_view(shown, draw)]))
            loss = contrastive_loss(*network.project(features).chunk(2))
            loss = loss + nn.functional.cross_entropy(network.turns(features), turns.repeat(2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.advance(loss=f"{loss.item():.3f}")
