"""What feeding images at 32 px costs, compared with a DataLoader that converts them one by one.

All variants take turns in one process; reported are medians of the ratios of their times. 10,000
RGB images, batches of 128. Ours is what training does: uint8 images in memory, picked by index out
of the set and its mirror images (put there once, in the warm-up round), and mapped to -1..1, a
batch at a time. `tensors`: a DataLoader whose data set converts and mirrors one tensor after
another. `pillow`: one that goes through PIL and torchvision's transforms, as examples do. `png`:
the same from encoded PNGs; ours, compared with it, decodes once, which is not counted. Times are
CPU seconds of the process (one thread, no workers). For scale, a forward and backward pass of an 8M
UNet at a batch of 16 is measured, too.

`python benchmarks/feeding.py` writes benchmarks/results/feeding.json.
"""

import argparse
import io
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterable

import torch
import torchvision
from PIL import Image
from record import record
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from deme.data import InMemoryImages
from deme.data.pixels import to_float
from deme.runs import compose_stage, instantiate
from deme.training.batches import StepBatches, StepLoader

COUNT, BATCH = 10_000, 128
STEPS = COUNT // BATCH
TARGETS = {"tensors": 10, "pillow": 30, "png": 30}
COMPACT = compose_stage("train", ["model=ddpm_compact"])["model"]


class OneByOne(Dataset[Tensor]):
    """Images as tensors, converted and mirrored when they are asked for."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        image = self.pixels[index].float() / 127.5 - 1
        return image.flip(2) if torch.rand(()) < 0.5 else image


class ThroughPillow(Dataset[Tensor]):
    """Images as arrays, or as encoded PNGs, through PIL and torchvision's transforms."""

    def __init__(self, pixels: Tensor, encode: bool) -> None:
        arrays = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self.stored = [_png(array) for array in arrays] if encode else arrays
        half = (0.5, 0.5, 0.5)
        self.transform = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(half, half),
            ]
        )

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: int) -> Tensor:
        stored = self.stored[index]
        encoded = isinstance(stored, bytes)
        return self.transform(
            Image.open(io.BytesIO(stored)).convert("RGB") if encoded else Image.fromarray(stored)
        )


def _png(array) -> bytes:  # type: ignore[no-untyped-def]
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def ours(loader: StepLoader) -> Iterable[Tensor]:
    for pixels in loader:
        yield to_float(pixels)


def loader(dataset: Dataset[Tensor]) -> Callable[[], Iterable[Tensor]]:
    return lambda: DataLoader(dataset, BATCH, shuffle=True, drop_last=True)


def images_per_second(feed: Callable[[], Iterable[Tensor]]) -> float:
    began, count = time.process_time(), 0
    for batch in feed():
        count += len(batch)
    assert count == STEPS * BATCH
    return count / (time.process_time() - began)


def step_images_per_second(batch_size: int = 16) -> float:
    """Images per CPU second of a forward and backward pass of the compact UNet."""
    model = instantiate(COMPACT).train()
    x0, t = torch.randn(batch_size, 3, 32, 32), torch.randint(0, 1000, (batch_size,))
    taken = []
    for _ in range(3):
        began = time.process_time()
        model(x0, t).square().mean().backward()
        taken.append(time.process_time() - began)
    return batch_size / statistics.median(taken[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    pixels = torch.randint(
        0, 256, (COUNT, 3, 32, 32), generator=torch.Generator().manual_seed(0)
    ).byte()
    in_memory = StepLoader(InMemoryImages(pixels), StepBatches(COUNT, BATCH, STEPS, 0, mirror=True))
    feeds = {
        "ours": lambda: ours(in_memory),
        "tensors": loader(OneByOne(pixels)),
        "pillow": loader(ThroughPillow(pixels, encode=False)),
        "png": loader(ThroughPillow(pixels, encode=True)),
    }
    rounds = []
    for repeat in range(arguments.repeats + 1):
        names = list(feeds) if repeat % 2 else list(reversed(feeds))
        rates = {name: images_per_second(feeds[name]) for name in names}
        if repeat:  # the first round warms up
            rounds.append(rates)
            print({name: round(rate) for name, rate in rates.items()}, flush=True)
    ratios = {name: sorted(r["ours"] / r[name] for r in rounds) for name in TARGETS}
    rates = {name: statistics.median(r[name] for r in rounds) for name in feeds}
    step = step_images_per_second()
    result = {
        "images": COUNT,
        "batch_size": BATCH,
        "repeats": len(rounds),
        "images_per_second": {name: round(rate) for name, rate in rates.items()},
        "times_faster": {
            name: {
                "median": round(statistics.median(v), 1),
                "min": round(v[0], 1),
                "max": round(v[-1], 1),
                "target": TARGETS[name],
            }
            for name, v in ratios.items()
        },
        "compact_unet_step_images_per_second": round(step, 1),
        "share_of_a_step": {name: round(step / (rate + step), 5) for name, rate in rates.items()},
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "threads": 1,
        "machine": platform.machine(),
    }
    record("feeding", result)


if __name__ == "__main__":
    main()
