"""Latents and embeddings in the cache: what they are, and that they are made again when what they follow from changes."""

import resource

import pytest
import torch

from deme.data import CaptionedImages, EncodedDataset, InMemoryImages
from deme.data.captioned import load_captioned_images
from deme.data.latents import SHARD, CachedLatents
from deme.diffusion import TEXT, ShardedRandom, generator
from deme.system.errors import WorkFailed
from deme.training.batches import StepBatches, StepLoader
from tests.captioned import captioned_folder


def captioned(pixels, captions):
    return CaptionedImages(InMemoryImages(pixels), captions)


class Encoder:
    """Mean: every other pixel of the first channel; deviation: 0.25; embedding: the length of the caption."""

    def __init__(self, name="one"):
        self.name, self.encoded = name, 0

    def content_hash(self):
        return self.name

    def moments(self, images):
        self.encoded += len(images)
        mean = images[:, :1, ::2, ::2]
        return mean, torch.full_like(mean, 0.25)

    def conditions(self, texts):
        lengths = torch.tensor([float(len(text)) for text in texts])[:, None, None]
        return {TEXT: lengths.expand(-1, 2, 3).clone()}


@pytest.fixture
def images():
    pixels = torch.randint(
        0, 256, (10, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    return captioned(pixels, [f"image {'x' * i}" for i in range(10)])


def test_moments_and_embeddings_are_those_of_the_encoder(images, tmp_path):
    latents = CachedLatents(images, Encoder(), tmp_path)
    assert isinstance(latents, EncodedDataset)
    x0, condition = latents.eval_sample([3, 7])
    expected = (images.images.pixels[[3, 7]].float() / 127.5 - 1)[:, :1, ::2, ::2]
    torch.testing.assert_close(x0, expected, rtol=1e-3, atol=1e-3)  # kept in float16
    assert condition[TEXT][:, 0, 0].tolist() == [len("image xxx"), len("image xxxxxxx")]


def test_training_draws_a_latent_from_the_moments_and_leaves_captions_out(images, tmp_path):
    latents = CachedLatents(images, Encoder(), tmp_path, caption_dropout=0.5)
    batch = latents.__getitems__([4] * 4000)
    x0, condition = latents.training_sample(batch, ShardedRandom(generator("test"), 4000, 0, 4000))
    mean = latents.eval_sample([4])[0][0]
    assert float((x0.mean(0) - mean).abs().max()) < 0.02
    assert float(x0.std(0).mean()) == pytest.approx(0.25, abs=0.01)
    dropped = (condition[TEXT][:, 0, 0] == 0).float().mean()
    assert float(dropped) == pytest.approx(0.5, abs=0.03)
    without = CachedLatents(images, Encoder(), tmp_path, caption_dropout=1.0)
    assert not without.training_sample(batch, ShardedRandom(generator("test"), 4000, 0, 4000))[1][
        TEXT
    ].any()


def test_a_mirror_image_has_its_own_latent(images, tmp_path):
    latents = CachedLatents(images, Encoder(), tmp_path, mirrored=True)
    mirrored = latents.__getitems__([2], flips=[True])["mean"].float()
    expected = (images.images.pixels[[2]].flip(3).float() / 127.5 - 1)[:, :1, ::2, ::2]
    torch.testing.assert_close(mirrored, expected, rtol=1e-3, atol=1e-3)
    assert not torch.equal(expected.flip(3), expected)  # nor is it the mirrored latent


def test_the_loader_gives_mirror_images_by_the_steps_coins(images, tmp_path):
    latents = CachedLatents(images, Encoder(), tmp_path, mirrored=True)
    batches = StepBatches(len(latents), 5, 4, seed=1, mirror=True)
    for (step, rows), batch in zip(batches, StepLoader(latents, batches), strict=True):
        wanted = latents.__getitems__(rows.tolist(), batches.coins(step).tolist())
        assert all(torch.equal(batch[name], wanted[name]) for name in wanted)


def test_nothing_is_encoded_twice_and_a_lost_shard_alone_again(tmp_path):
    many = captioned(torch.zeros(SHARD + 5, 3, 2, 2, dtype=torch.uint8), ["a"] * (SHARD + 5))
    first, again, after = Encoder(), Encoder(), Encoder()
    folder = CachedLatents(many, first, tmp_path).folder
    CachedLatents(many, again, tmp_path)
    (folder / f"{SHARD:09d}.safetensors").unlink()
    CachedLatents(many, after, tmp_path)
    assert (first.encoded, again.encoded, after.encoded) == (SHARD + 5, 0, 5)


def test_a_changed_image_caption_or_encoder_is_noticed(images, tmp_path):
    folders = {CachedLatents(images, Encoder(), tmp_path).folder}
    pixels = images.images.pixels.clone()
    pixels[9, 2, 7, 7] ^= 1
    captions = [*images._captions[:9], "another"]
    for changed, encoder in (
        (captioned(pixels, images._captions), Encoder()),
        (captioned(images.images.pixels, captions), Encoder()),
        (images, Encoder("two")),
    ):
        latents = CachedLatents(changed, encoder, tmp_path)
        assert encoder.encoded == 10
        folders.add(latents.folder)
    assert len(folders) == 4
    assert (
        CachedLatents(captioned(images.images.pixels, captions), Encoder(), tmp_path).eval_sample(
            [9]
        )[1][TEXT][0, 0, 0]
        == 7
    )


def test_many_rows_need_few_descriptors(tmp_path):
    images = captioned(torch.zeros(300, 3, 2, 2, dtype=torch.uint8), ["a"] * 300)
    latents = CachedLatents(images, Encoder(), tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        assert len(latents.eval_sample(list(range(300)))[0]) == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_encoders_that_give_nan_are_refused(images, tmp_path):
    class Broken(Encoder):
        def moments(self, images):
            mean, std = super().moments(images)
            return mean * float("nan"), std

    with pytest.raises(WorkFailed, match="NaN"):
        CachedLatents(images, Broken(), tmp_path)
    assert not list((tmp_path / "latents").rglob("0*.safetensors"))


def test_another_crop_is_another_set_of_latents(tmp_path):
    folder = tmp_path / "images"
    captioned_folder(folder, 8, (12, 20), "picture {}")
    found = []
    for crop in ("center", "none", "center"):
        data = load_captioned_images(str(folder), size=8, crop=crop, held_out_fraction=0.25)
        found.append(CachedLatents(data.train, Encoder(), tmp_path / "cache"))
    assert found[0].folder == found[2].folder != found[1].folder
    assert not torch.equal(found[0].eval_sample([0])[0], found[1].eval_sample([0])[0])
