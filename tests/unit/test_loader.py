"""What feeds training: batches and random crops that follow from (seed, step, row), from memory, streams and other processes."""

import numpy as np
import pytest
import torch
from PIL import Image

from deme.data import InMemoryImages
from deme.data.decode import Preprocessing, Unreadable
from deme.data.encoded import EncodedImages, RandomlyCropped
from deme.data.image_files import ImageFiles
from deme.data.in_memory_images import DecodedImages
from deme.training.batches import StepBatches, StepLoader

COUNT = 10


@pytest.fixture
def source(tmp_path):
    """Ten images whose rows are 0, 1, 2, ... plus 20 times their number: a crop tells whose it is and where it was cut."""
    for index in range(COUNT):
        row = np.arange(13, dtype=np.uint8) + 20 * index
        Image.fromarray(np.broadcast_to(row, (8, 13)).copy()).save(tmp_path / f"{index}.png")
    return ImageFiles(tmp_path)


def indices_of(batches):
    return [rows.tolist() for _, rows in batches]


def batches_of(first=0, rank=0, world_size=1, batch_size=4, num_steps=9):
    return StepBatches(
        COUNT, batch_size, num_steps, seed=3, first=lambda: first, rank=rank, world_size=world_size
    )


def loaded(images, num_workers=0, **which):
    return list(StepLoader(images, batches_of(**which), num_workers))


def randomly_cropped(source):
    return RandomlyCropped(source, range(COUNT), Preprocessing(8, 1, crop="random"))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_way_of_feeding_gives_the_images_of_the_step(source, num_workers):
    encoded = EncodedImages(source, range(COUNT), Preprocessing(8, 1))
    expected = [encoded.__getitems__(indices) for indices in indices_of(batches_of())]
    for images in (
        encoded,
        DecodedImages(encoded),
        InMemoryImages(encoded.__getitems__(list(range(COUNT)))),
    ):
        loader = StepLoader(images, batches_of(), num_workers)
        assert len(loader) == 9
        for _ in range(2):  # again from the start
            assert all(torch.equal(a, b) for a, b in zip(loader, expected, strict=True))
        assert loader.state_dict() == {}


def test_a_crop_follows_from_seed_step_and_row_alone(source):
    images = randomly_cropped(source)
    whole = loaded(images)
    assert all(batch.shape == (4, 1, 8, 8) for batch in whole)
    places = torch.cat(whole)[:, 0, 0, 0] % 20  # of the left edge
    assert set(places.tolist()) == set(range(6))
    resumed = loaded(images, first=4)
    assert all(torch.equal(a, b) for a, b in zip(resumed, whole[4:], strict=True))
    ahead = loaded(images, num_workers=2)
    assert all(torch.equal(a, b) for a, b in zip(ahead, whole, strict=True))
    ranks = [loaded(images, rank=rank, world_size=2, batch_size=2) for rank in (0, 1)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(batch, torch.cat(parts))
    other = list(StepLoader(images, StepBatches(COUNT, 4, 9, seed=4)))
    assert not torch.equal(torch.cat(other)[:, 0, 0, 0] % 20, places)
    # the same images pass again in another epoch, cut elsewhere
    assert len({tuple(batch.flatten().tolist()) for batch in torch.cat(whole)}) > COUNT


@pytest.mark.parametrize("feed", ["picked", "one by one in memory", "streamed"])
def test_mirroring_follows_from_seed_step_and_row_alone(feed, source, monkeypatch):
    encoded = EncodedImages(source, range(COUNT), Preprocessing(8, 1))
    images = encoded if feed == "streamed" else DecodedImages(encoded)
    if feed == "one by one in memory":
        monkeypatch.setattr("deme.training.batches.MAX_MIRRORED_BYTES", 0)

    def mirrored_at(first=0, seed=3, **which):
        batches = StepBatches(
            COUNT, which.pop("batch_size", 4), 40, seed, lambda: first, mirror=True, **which
        )
        return list(StepLoader(images, batches))

    plain = list(StepLoader(images, StepBatches(COUNT, 4, 40, 3)))
    whole = mirrored_at()
    coins = [StepBatches(COUNT, 4, 40, 3, mirror=True).coins(step) for step in range(40)]
    for batch, unchanged, which in zip(whole, plain, coins, strict=True):
        assert torch.equal(
            batch, torch.where(which[:, None, None, None], unchanged.flip(3), unchanged)
        )
    assert 55 < int(torch.cat(coins).sum()) < 105  # of 160 fair coins: four standard deviations
    assert all(torch.equal(a, b) for a, b in zip(mirrored_at(first=7), whole[7:], strict=True))
    ranks = [mirrored_at(rank=rank, world_size=2, batch_size=2) for rank in (0, 1)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(batch, torch.cat(parts))


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("kind", [EncodedImages, RandomlyCropped])
def test_a_damaged_image_is_one_clear_error_also_from_another_process(source, num_workers, kind):
    source.files[5].write_bytes(source.files[5].read_bytes()[:-30])
    images = kind(source, range(COUNT), Preprocessing(8, 1))
    with pytest.raises(Unreadable) as caught:
        loaded(images, num_workers)
    assert str(caught.value).startswith(f"{source.files[5]} is not an image that can be read: ")
    assert len(str(caught.value).splitlines()) == 2


def test_pixels_are_moved_to_the_device_once():
    class Meter(InMemoryImages):
        moved = 0

        @property
        def pixels(self):
            Meter.moved += 1
            return super().pixels

    images = Meter(torch.arange(COUNT, dtype=torch.uint8).reshape(-1, 1, 1, 1))
    batches = list(StepLoader(images, batches_of(), num_workers=3, device="meta"))
    assert {batch.device.type for batch in batches} == {"meta"}
    assert Meter.moved == 1


@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_reads_streams_and_stops_at_a_damaged_image(source, num_workers, tmp_path):
    from deme.diffusion import RangeSampler, TimestepRange
    from deme.methods.finetune import Finetune
    from deme.training.fit import Loop, fit
    from deme.training.learning_rate import ConstantRate
    from deme.training.module import DiffusionModule
    from tests.models import tiny

    def train(name):
        method = Finetune(torch.ones(1000), RangeSampler(TimestepRange(0, 1000), 1000))
        sgd = lambda groups: torch.optim.SGD(groups, lr=1.0)  # noqa: E731
        module = DiffusionModule(tiny(), method, sgd, ConstantRate(1), None, 0, 50)
        loop = Loop(4, 4, 0, accelerator="cpu", num_workers=num_workers)
        fit(module, randomly_cropped(source), loop, tmp_path / name)
        return torch.cat([p.detach().flatten() for p in module.model.parameters()])

    assert torch.equal(train("one"), train("other"))
    source.files[5].write_bytes(b"")
    with pytest.raises(Unreadable, match=r"5.png is not an image that can be read: it is empty"):
        train("third")


@pytest.mark.parametrize(
    ("count", "batch_size", "world_size"), [(10, 4, 1), (10, 4, 2), (3, 8, 1), (5, 5, 3), (1, 2, 2)]
)
def test_batches_are_consecutive_pieces_of_seeded_permutations(count, batch_size, world_size):
    from deme.diffusion import generator

    steps, stream = 6, []
    while len(stream) < steps * batch_size * world_size:
        stream += torch.randperm(
            count, generator=generator("epoch", 3, len(stream) // count)
        ).tolist()
    for rank in range(world_size):
        found = indices_of(
            StepBatches(count, batch_size, steps, 3, rank=rank, world_size=world_size)
        )
        starts = [(step * world_size + rank) * batch_size for step in range(steps)]
        assert found == [stream[start : start + batch_size] for start in starts]


def test_mirroring_bytes_is_mirroring_images():
    from deme.data.pixels import mirrored, to_float

    pixels = torch.randint(0, 256, (9, 3, 5, 7), generator=torch.Generator().manual_seed(0)).byte()
    before, which = pixels.clone(), torch.arange(9) % 3 == 0
    expected = torch.where(
        which[:, None, None, None], (pixels / 127.5 - 1).flip(3), pixels / 127.5 - 1
    )
    assert torch.equal(to_float(mirrored(pixels, which)), expected)
    assert torch.equal(pixels, before)
