"""How encoded images become pixels: rules against Pillow, damaged images, memory or stream, what the hash covers."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deme.data import Croppable, InMemoryImages, every, inspection, split_dataset
from deme.data.decode import RESIZE, Preprocessing, TooDeep, Unreadable, open_image
from deme.data.encoded import EncodedImages, RandomlyCropped
from deme.data.image_files import ImageFiles
from deme.data.image_folder import load_image_folder
from deme.system import console
from deme.system.errors import BadConfig, MissingInput, WorkFailed


def picture(width, height, bands=3, seed=0):
    shape = (height, width, bands) if bands > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def encoded(image, suffix):
    buffer = io.BytesIO()
    image.save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Twenty PNGs, 13 x 9 and 9 x 13 by turns."""
    (tmp_path / "images").mkdir()
    for index in range(20):
        sides = (13, 9) if index % 2 else (9, 13)
        picture(*sides, seed=index).save(tmp_path / "images" / f"{index:02d}.png")
    return tmp_path / "images"


def of(folder, rules, kind=EncodedImages):
    source = ImageFiles(folder)
    return kind(source, range(len(source)), rules)


def as_tensor(image):
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


@pytest.mark.parametrize("resize", RESIZE)
@pytest.mark.parametrize("crop", ["center", "none"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [5, 9, 30])
def test_every_rule_is_what_pillow_does(resize, crop, channels, size):
    image = picture(13, 9).convert("L" if channels == 1 else "RGB")
    found = Preprocessing(size, channels, resize, crop).apply(image)
    wide = size if crop == "none" else round(13 * size / 9)
    filter_ = getattr(Image.Resampling, resize.upper())
    resized = image if image.size == (wide, size) else image.resize((wide, size), filter_)
    left = (wide - size) // 2
    assert torch.equal(found, as_tensor(resized.crop((left, 0, left + size, size))))


def test_a_position_runs_over_every_place_of_the_longer_side():
    wide, tall = picture(12, 8), picture(8, 12)
    rules = Preprocessing(8, 3, crop="random")
    for image, cut in ((wide, lambda i: (i, 0, i + 8, 8)), (tall, lambda i: (0, i, 8, i + 8))):
        for place in range(5):
            for position in (place / 5, (place + 0.999) / 5):
                assert torch.equal(rules.apply(image, position), as_tensor(image.crop(cut(place))))
        assert torch.equal(rules.apply(image), as_tensor(image.crop(cut(2))))  # the centre


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "jpg", "jpeg", "tif", "tiff"])
@pytest.mark.parametrize("bands", [1, 3])
def test_every_format_in_grey_and_colour(suffix, bands, tmp_path):
    image = picture(8, 8, bands)
    (tmp_path / f"x.{suffix}").write_bytes(encoded(image, suffix))
    (tmp_path / f"y.{suffix.upper()}").write_bytes(encoded(image, suffix))
    with Image.open(tmp_path / f"x.{suffix}") as stored:
        expected = {
            channels: as_tensor(stored.convert("L" if channels == 1 else "RGB"))
            for channels in (1, 3)
        }
    for channels in (1, 3):
        found = of(tmp_path, Preprocessing(8, channels)).__getitems__([0, 1])
        assert torch.equal(found, torch.stack([expected[channels]] * 2))


def test_transparency_and_palettes_become_grey_or_rgb(tmp_path):
    picture(8, 8).convert("RGBA").save(tmp_path / "a.png")
    picture(8, 8).convert("P").save(tmp_path / "b.png")
    picture(8, 8, 1).convert("LA").save(tmp_path / "c.png")
    assert of(tmp_path, Preprocessing(8, 3)).__getitems__([0, 1, 2]).shape == (3, 3, 8, 8)
    assert of(tmp_path, Preprocessing(8, 1)).__getitems__([0, 1, 2]).shape == (3, 1, 8, 8)


def test_sixteen_bits_are_refused_not_clipped(tmp_path):
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(TooDeep, match=r"a\.png has more than 8 bits a channel \(mode I;16\)"):
        of(tmp_path, Preprocessing(8, 1)).__getitems__([0])


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"channels": 2}, r"data.channels must be 1 \(grey\) or 3 \(RGB\), got 2"),
        ({"resize": "bicubik"}, "data.resize must be one of bicubic, bilinear, lanczos, box, got 'bicubik'; did you mean 'bicubic'?"),
        ({"crop": "centre"}, "data.crop must be one of center, random, none, got 'centre'; did you mean 'center'?"),
        ({"corrupt": "ignore"}, "data.corrupt must be refuse or skip, got 'ignore'"),
        ({"in_memory": 3}, "data.in_memory must be null, true or false, got 3"),
        ({"background": "wite"}, "data.background must be a colour, such as white, black or '#808080'; got 'wite'"),
        ({"background": "#ffffff80"}, "data.background must be a colour"),
        ({"background": 3}, "data.background must be a colour"),
        ({"in_memory": True, "crop": "random"}, "type: data.in_memory=null"),
        ({"held_out_fraction": 1.0}, "data.held_out_fraction must lie strictly between 0 and 1, got 1.0"),
        ({"held_out_fraction": 0.01}, "20 images are too few: data.held_out_fraction=0.01"),
        ({"size": None}, "data.size must be given, because no model determines it\ntype: data.size=<value>"),
    ],
)  # fmt: skip
def test_settings_that_are_none_are_refused(rules, message, folder):
    with pytest.raises(BadConfig, match=message):
        load_image_folder(str(folder), **{"size": 8, "channels": 3, **rules})


def test_a_folder_without_images_says_what_it_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(
        MissingInput,
        match=r"holds no images \(.png, .jpg, .jpeg, .webp, .tif, .tiff, .bmp\), no LMDB \(data.mdb\) and no",
    ):
        load_image_folder(str(tmp_path), 8, 3)


def test_in_memory_and_streaming_are_the_same(folder):
    memory = load_image_folder(str(folder), 8, 3)
    stream = load_image_folder(str(folder), 8, 3, in_memory=False)
    for side in ("train", "held_out"):
        one, other = getattr(memory, side), getattr(stream, side)
        assert isinstance(one, InMemoryImages)
        assert not isinstance(other, InMemoryImages)
        assert one.content_hash() == other.content_hash()
        assert torch.equal(one.__getitems__([1]), other.__getitems__([1]))  # not decoded yet
        assert torch.equal(every(one), every(other))
        assert torch.equal(one.pixels, every(other))
    assert (len(memory.train), len(memory.held_out)) == (18, 2)


def test_what_does_not_fit_in_memory_streams_unless_told(folder, monkeypatch):
    monkeypatch.setattr(split_dataset, "IN_MEMORY_BYTES", 20 * 3 * 64)
    assert isinstance(load_image_folder(str(folder), 8, 3).train, InMemoryImages)
    monkeypatch.setattr(split_dataset, "IN_MEMORY_BYTES", 20 * 3 * 64 - 1)
    assert isinstance(load_image_folder(str(folder), 8, 3).train, EncodedImages)
    assert isinstance(load_image_folder(str(folder), 8, 3, in_memory=True).train, InMemoryImages)


def test_the_split_follows_from_the_listing_alone(folder, tmp_path):
    def names(**rules):
        return load_image_folder(
            str(folder), **{"size": 8, "channels": 3, "in_memory": False, **rules}
        ).held_out.indices

    first = names()
    assert first == names(size=5) == names(channels=1, corrupt="skip") == names(crop="random")
    (folder / f"{first[0]:02d}.png").write_bytes(b"damaged")
    with pytest.raises(BadConfig, match="19 images are too few"):
        names(corrupt="skip")


def test_the_hash_covers_every_rule_every_image_and_their_order(folder):
    def content(**rules):
        return of(folder, Preprocessing(**{"size": 8, "channels": 3, **rules})).content_hash()

    kinds = [
        {},
        {"size": 9},
        {"channels": 1},
        {"crop": "none"},
        *({"resize": name} for name in RESIZE if name != "bicubic"),
    ]
    found = {content(**rules) for rules in kinds}
    assert len(found) == len(kinds)
    assert content() == content(resize="bicubic", crop="center")
    assert content() == content(crop="random")  # whoever hashes them sees the centre
    before = content()
    images = of(folder, Preprocessing(8))
    assert (
        EncodedImages(images.source, images.indices[::-1], images.preprocessing).content_hash()
        != before
    )
    picture(13, 9, seed=99).save(folder / "03.png")
    assert content() != before


def test_a_large_sets_hash_is_remembered_until_an_image_changes(folder, tmp_path, monkeypatch):
    def content(cache=tmp_path / "cache"):
        source = ImageFiles(folder)
        return EncodedImages(source, range(len(source)), Preprocessing(8), cache).content_hash()

    first = content()
    assert first == content(None)
    with monkeypatch.context() as nothing_is_read:
        nothing_is_read.setattr(ImageFiles, "read", None)
        assert content() == first
    picture(13, 9, seed=99).save(folder / "03.png")
    assert content() == content(None) != first


def damage(folder):
    """Damage five of the twenty images, each in its own way; return their names."""
    (folder / "02.png").write_bytes((folder / "02.png").read_bytes()[:-60])
    (folder / "05.png").write_bytes(b"")
    (folder / "07.png").rename(folder / "07.jpg")
    whole = encoded(picture(64, 64), "jpg")
    (folder / "07.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "11.png").write_bytes(b"no picture at all")
    data = bytearray((folder / "13.png").read_bytes())
    data[len(data) // 2] ^= 0xFF  # a bit error: the chunk's checksum tells
    (folder / "13.png").write_bytes(bytes(data))
    return ["02.png", "05.png", "07.jpg", "11.png", "13.png"]


def test_a_damaged_image_is_named_when_it_is_read(folder):
    damage(folder)
    images = EncodedImages(ImageFiles(folder), range(20), Preprocessing(8))
    for index, reason in (
        (2, "truncated"),
        (5, "it is empty"),
        (7, "truncated"),
        (11, "its format is unknown"),
        (13, ""),
    ):
        with pytest.raises(
            Unreadable,
            match=f"{images.source.files[index].name} is not an image that can be read: .*{reason}",
        ) as caught:
            images.__getitems__([0, index, 1])
        assert str(caught.value).endswith("move it away, or type: data.corrupt=skip")
        assert len(str(caught.value).splitlines()) == 2
        assert "0x" not in str(caught.value)


def test_all_damaged_images_are_named_at_once_before_any_work(folder):
    names = damage(folder)
    with pytest.raises(WorkFailed) as caught:
        load_image_folder(str(folder), 8, 3)
    message = str(caught.value).splitlines()
    assert len(message) == 2
    assert message[0].startswith("5 of 20 images cannot be read: ")
    assert all(f"{name} (" in message[0] for name in names)  # with the reason
    assert message[1] == "move them away, or type: data.corrupt=skip"


def test_an_image_that_becomes_damaged_is_named_when_all_are_decoded(folder):
    data = load_image_folder(str(folder), 8, 3)
    name = data.train.images.source.name(data.train.images.indices[4])
    Path(name).write_bytes(b"")
    with pytest.raises(Unreadable, match=f"{name} is not an image that can be read: it is empty"):
        every(data.train)


@pytest.mark.parametrize("in_memory", [None, False])
def test_damaged_images_are_left_out_and_named(folder, tmp_path, in_memory, monkeypatch, messages):
    whole = load_image_folder(str(folder), 8, 3, held_out_fraction=0.5, in_memory=False)
    names = damage(folder)

    def load(cache=tmp_path / "cache"):
        return load_image_folder(
            str(folder),
            8,
            3,
            held_out_fraction=0.5,
            corrupt="skip",
            in_memory=in_memory,
            cache=cache,
        )

    data = load()
    assert len(messages) == 1
    assert messages[0].startswith("5 of 20 images cannot be read and are left out: ")
    for name in names:
        assert name in messages[0]
    for side in ("train", "held_out"):
        kept = [index for index in getattr(whole, side).indices if index not in (2, 5, 7, 11, 13)]
        expected = EncodedImages(ImageFiles(folder), kept, Preprocessing(8))
        assert torch.equal(every(getattr(data, side)), every(expected))
    # looked for once per listing
    monkeypatch.setattr("deme.data.inspection.open_image", lambda *_: pytest.fail("looked again"))
    load()
    assert messages[1:] == messages[:1]
    (folder / "05.png").write_bytes(b"longer")
    with pytest.raises(pytest.fail.Exception, match="looked again"):
        load()
    monkeypatch.undo()
    picture(9, 13, seed=5).save(folder / "05.png")
    load(None)
    assert messages[2].startswith("4 of 20 images")


def test_a_long_list_of_damaged_images_is_cut_and_kept_whole_in_the_cache(
    folder, tmp_path, messages
):
    for index in range(30):
        (folder / f"bad{index}.png").write_bytes(b"")
    load_image_folder(
        str(folder),
        8,
        3,
        held_out_fraction=0.5,
        corrupt="skip",
        cache=tmp_path / "cache",
    )
    (verdict,) = (tmp_path / "cache" / "inspected").glob("*.json")
    assert f" and 10 more; all of them: {verdict}" in messages[0]
    assert len(messages[0]) < 5000


def test_only_what_crops_at_random_is_croppable(folder):
    random, centre = (
        load_image_folder(str(folder), 8, 3, crop=crop) for crop in ("random", "center")
    )
    assert isinstance(random.train, Croppable)
    assert not isinstance(random.held_out, Croppable)
    assert not isinstance(centre.train, Croppable)
    assert torch.equal(every(random.train), every(centre.train))
    assert torch.equal(every(random.held_out), every(centre.held_out))
    images = of(folder, Preprocessing(8, crop="random"), RandomlyCropped)
    assert torch.equal(
        images.cropped([3, 4], [0.5, 0.5]), images.__getitems__([3, 4])
    )  # 12 x 8: five places
    assert not torch.equal(images.cropped([3, 4], [0.0, 0.99]), images.__getitems__([3, 4]))


def test_decoding_that_takes_long_shows_its_progress(folder, monkeypatch, messages):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", -1.0)
    monkeypatch.setattr(inspection, "CHUNK", 7)
    every(load_image_folder(str(folder), 8, 3).train)
    assert [text.split(",")[0] for text in messages] == [
        *(f"checking images: {done}/20 images" for done in (7, 14, 20)),
        *(f"decoding images: {done}/18 images" for done in (7, 14, 18)),
    ]


def test_a_photograph_is_turned_upright(tmp_path):
    image = picture(12, 8)
    told = Image.Exif()
    told[0x0112] = 6  # the top is at the right
    image.save(tmp_path / "turned.png", exif=told)
    turned = open_image((tmp_path / "turned.png").read_bytes(), "turned", 3)
    assert torch.equal(as_tensor(turned), as_tensor(image.transpose(Image.Transpose.ROTATE_270)))


def test_colours_of_16_bits_are_refused(tmp_path):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)  # one pixel, 16 bits, RGB
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 7))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(TooDeep, match="deep has more than 8 bits a channel"):
        open_image(png, "deep", 3)
