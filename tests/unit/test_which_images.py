"""Which files are images, which decoders see them, what becomes of transparency, and of the same picture twice."""

import ast
import io
import itertools
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deme.builders import check_images
from deme.data import decode, every, image_files
from deme.data.dataset_rows import DatasetRows, is_dataset
from deme.data.decode import FORMATS, Preprocessing, TooDeep, Unreadable, is_transparent, open_image
from deme.data.encoded import EncodedImages
from deme.data.image_files import ImageFiles
from deme.data.image_folder import load_image_folder, source_at
from deme.data.lmdb_images import LmdbImages
from deme.data.raw_image_folder import RawImageFolder
from deme.models.loading import load_pretrained
from deme.runs import compose_stage, content_hash
from deme.runs.identity import identity_hash
from deme.runs.inputs import input_hash
from deme.system import BadConfig, MissingInput, WorkFailed, list_files
from deme.system.folders import BROKEN, HIDDEN, REPEATED, SPECIAL

PACKAGE = Path(__file__).parents[2] / "deme"


def picture(seed, bands=3, size=8):
    shape = (size, size, bands) if bands > 1 else (size, size)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def pictures(folder, count=20, first=0, suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(first, first + count):
        picture(index).save(folder / f"{index:03}.{suffix}")
    return folder


def names(folder, files):
    return [file.relative_to(folder).as_posix() for file in files]


def load(folder, **rules):
    return load_image_folder(str(folder), **{"size": 8, "channels": 3, **rules})


# which files


def test_links_are_followed_and_every_folder_is_read_once(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    pictures(root / "a", 2)
    pictures(other / "inside", 2)
    (root / "b").symlink_to(other)  # a folder elsewhere
    (root / "aa").symlink_to(root / "a")  # sorted before what it leads to: a keeps its own name
    (root / "c").symlink_to(other / "inside")  # read already, as b/inside
    (root / "d").symlink_to(root)
    (root / "e").symlink_to(tmp_path)  # it leads back
    (other / "inside" / "up").symlink_to(other)
    (root / "x.png").symlink_to(root / "a" / "000.png")  # a file's second name is a file
    (root / "gone.png").symlink_to(tmp_path / "nowhere")
    (root / "self.png").symlink_to(root / "self.png")
    listing = list_files(root)
    assert names(root, listing.files) == [
        "a/000.png", "a/001.png", "b/inside/000.png", "b/inside/001.png", "x.png",
    ]  # fmt: skip
    assert sorted(names(root, listing.left_out[REPEATED])) == ["aa", "b/inside/up", "c", "d", "e"]
    assert sorted(names(root, listing.left_out[BROKEN])) == ["gone.png", "self.png"]


def test_many_links_to_each_other_end(tmp_path):
    folders = [pictures(tmp_path / f"{index:02}", 1, index) for index in range(12)]
    for one, other in itertools.permutations(folders, 2):
        (one / f"to_{other.name}").symlink_to(other)
    assert len(list_files(tmp_path).files) == 12
    assert len(list_files(folders[3]).files) == 12  # 11 of them behind links


def test_hidden_and_temporary_names_and_what_is_no_file_are_left_out(tmp_path, messages):
    root = pictures(tmp_path / "root", 3)
    pictures(root / ".ipynb_checkpoints" / "deeper", 2)
    pictures(root / "copying.tmp", 1)
    pictures(root / "kept.tmpx", 1, first=50)
    for name in (".x.png", "x.PNG.part", "y.png~"):
        (root / name).write_bytes((root / "000.png").read_bytes())
    (root / "notes.txt").write_text("x")
    (root / "anim.gif").write_bytes(b"GIF89a")
    os.mkfifo(root / "pipe.png")
    listing = list_files(root)
    assert names(root, filter(image_files.is_image, listing.files)) == [
        "000.png", "001.png", "002.png", "kept.tmpx/050.png",
    ]  # fmt: skip
    assert len(listing.left_out[HIDDEN]) == 6
    assert names(root, listing.left_out[SPECIAL]) == ["pipe.png"]
    assert len(ImageFiles(root)) == 4
    (said,) = messages
    assert said.startswith(f"{root}: 4 images; left out are ")
    for part in (
        f"6 {HIDDEN}, such as ",
        f"1 {SPECIAL}, such as pipe.png",
        "2 other kinds of files (",
        ".gif",
        ".txt",
    ):
        assert part in said


def test_an_empty_hidden_folder_is_nothing(tmp_path, messages):
    pictures(tmp_path, 1)
    (tmp_path / ".ipynb_checkpoints" / "empty").mkdir(parents=True)
    assert len(ImageFiles(tmp_path)) == 1
    assert not messages


def test_a_plain_folder_says_nothing(tmp_path, messages):
    load(pictures(tmp_path / "root"))
    assert messages == []


def test_the_folder_itself_may_be_hidden_or_a_link(tmp_path):
    hidden = pictures(tmp_path / ".cache" / "x.tmp", 3)
    (tmp_path / "link").symlink_to(hidden)
    assert len(ImageFiles(hidden)) == len(ImageFiles(tmp_path / "link")) == 3


def test_a_file_in_place_of_a_folder_says_what_to_do(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK")
    with pytest.raises(MissingInput, match="unpack an archive first"):
        source_at(str(tmp_path / "images.zip"))


def test_the_identity_of_a_folder_is_that_of_the_files_that_count(tmp_path):
    root, elsewhere = pictures(tmp_path / "root", 3), pictures(tmp_path / "elsewhere", 2, 30)

    def hashes():
        return content_hash(root), input_hash("images", root)

    before = hashes()
    pictures(root / ".ipynb_checkpoints", 2)
    (root / "x.png.part").write_bytes(b"half")
    assert hashes() == before
    (root / "more").symlink_to(elsewhere)
    behind = hashes()
    assert all(one != other for one, other in zip(before, behind, strict=True))
    picture(99).save(elsewhere / "030.png")
    assert all(one != other for one, other in zip(behind, hashes(), strict=True))


def test_weights_behind_a_link_count(tmp_path):
    weights, model = tmp_path / "weights", tmp_path / "model"
    weights.mkdir()
    model.mkdir()
    (weights / "config.json").write_text("{}")
    (weights / "diffusion_pytorch_model.safetensors").write_bytes(b"one")
    (model / "unet").symlink_to(weights)
    before = content_hash(model)
    (weights / "diffusion_pytorch_model.safetensors").write_bytes(b"another")
    assert content_hash(model) != before


def test_a_name_that_is_not_utf8_is_a_name(tmp_path):
    root = pictures(tmp_path / "root")
    (root / "000.png").rename(root / os.fsdecode(b"\xff\xfe.png"))
    assert len(content_hash(root)) == 64
    assert len(load(root, cache=tmp_path / "cache").train.content_hash()) == 64


def test_tables_follow_the_same_rule(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    (root / ".git").mkdir(parents=True)
    elsewhere.mkdir()
    (root / ".git" / "x.parquet").write_bytes(b"")
    assert not is_dataset(root)
    (elsewhere / "x.parquet").write_bytes(b"")
    (root / "data").symlink_to(elsewhere)
    assert is_dataset(root)


def rows_of(seeds, **columns):
    datasets = pytest.importorskip("datasets")
    encoded = [{"bytes": as_bytes(picture(seed), "PNG"), "path": None} for seed in seeds]
    rows = datasets.Dataset.from_dict({"image": encoded, **columns})
    return rows.cast_column("image", datasets.Image())


def test_the_rows_of_tables_follow_the_same_rule(tmp_path):
    """Files behind links count, temporary ones and other splits do not; a README.md says nothing."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder, name, seeds in (
        (elsewhere, "train-1.parquet", (3, 4)),
        (root / "data", "train-0.parquet", (0, 1, 2)),
        (root / "data", "test-0.parquet", (5,)),
        (root / "copying.tmp", "train-2.parquet", (6,)),
        (tmp_path, "theirs.parquet", (7,)),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        rows_of(seeds).to_parquet(folder / name)
    (root / "more").symlink_to(elsewhere)
    (root / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: ../theirs.parquet\n---\n"
    )
    source = DatasetRows.in_folder(root)
    found = [np.asarray(open_image(source.read(i), "x")) for i in range(len(source))]
    assert len(found) == 5
    for image, seed in zip(found, range(5), strict=True):
        assert np.array_equal(image, np.asarray(picture(seed)))


def test_a_column_of_images_is_no_column_of_captions(tmp_path, monkeypatch):
    """To read it would decode it, with every decoder that Pillow has."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("decoded"))
    other = [{"bytes": POSTSCRIPT, "path": None}] * 3
    rows = rows_of(range(3), caption=other).cast_column("caption", datasets.Image())
    with pytest.raises(BadConfig, match=r"type: data\.caption_column="):
        DatasetRows(rows, "rows").captions(None)


def test_a_row_that_names_a_device_is_unreadable(tmp_path):
    datasets = pytest.importorskip("datasets")
    os.mkfifo(tmp_path / "pipe.png")
    for path in ("/dev/zero", str(tmp_path / "pipe.png")):
        rows = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": path}]})
        rows = rows.cast_column("image", datasets.Image())
        with pytest.raises(Unreadable, match="not a file"):
            DatasetRows(rows, "rows").read(0)


# the same picture twice


def shown(images):
    return {tuple(image.flatten().tolist()) for image in every(images)}


@pytest.mark.parametrize(("in_memory", "fraction"), [(None, 0.1), (False, 0.3)])
def test_copies_are_on_one_side_of_the_split(tmp_path, in_memory, fraction, messages):
    root = pictures(tmp_path / "root", 30)
    pictures(root / "again", 30)  # every picture in another file of the same bytes
    for index in range(30):  # and in another format, of other bytes
        picture(index).save(root / f"{index:03}.tiff", compression="tiff_lzw")
    data = load(root, held_out_fraction=fraction, in_memory=in_memory)
    assert len(data.train) + len(data.held_out) == 90
    assert not shown(data.train) & shown(data.held_out)
    assert len(shown(data.train) | shown(data.held_out)) == 30
    assert 0.4 * fraction < len(data.held_out) / 90 < 2 * fraction  # the share is kept on average
    (said,) = messages
    assert said.startswith("60 of 90 images are exact copies of others, such as ")


def test_copies_of_captioned_images_and_of_rows_are_too(tmp_path):
    datasets = pytest.importorskip("datasets")
    encoded = []
    for index in range(12):
        buffer = io.BytesIO()
        picture(index % 6).save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": encoded}, features=features).save_to_disk(tmp_path / "set")
    assert isinstance(source_at(str(tmp_path / "set")), DatasetRows)
    data = load(tmp_path / "set", held_out_fraction=0.4)
    assert not shown(data.train) & shown(data.held_out)


def test_without_copies_the_split_is_the_random_one(tmp_path):
    from deme.data.split_dataset import split_indices

    data = load(pictures(tmp_path / "root", 40), in_memory=False)
    train, held_out = split_indices(40, 0.1)
    assert (data.train.indices, data.held_out.indices) == (train, held_out)


def test_left_out_images_do_not_come_back_with_their_copies(tmp_path):
    root = pictures(tmp_path / "root", 20)
    pictures(root / "again", 20)
    whole = load(root, held_out_fraction=0.5, in_memory=False)
    bad = whole.held_out.source.files[whole.held_out.indices[0]]
    bad.write_bytes(b"")
    data = load(root, held_out_fraction=0.5, in_memory=False, corrupt="skip")
    assert len(data.train) + len(data.held_out) == 39
    assert not shown(data.train) & shown(data.held_out)


def test_one_picture_alone_cannot_be_trained_on(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    for index in range(20):
        picture(0, 1).save(root / f"{index}.png")
    data = load(root, channels=1)
    assert (len(data.train), len(data.held_out)) == (20, 0)  # a folder to look at, by deme doctor
    with pytest.raises(BadConfig, match="none of 20 images can be held out"):
        check_images(data, load_pretrained("asset:digits_base"))


# decoders


def as_bytes(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n"


@pytest.mark.parametrize(
    "data",
    [POSTSCRIPT, *(as_bytes(picture(0), kind) for kind in ("GIF", "PPM", "TGA", "ICO", "PCX", "PDF"))],
    ids=["EPS", "GIF", "PPM", "TGA", "ICO", "PCX", "PDF"],
)  # fmt: skip
def test_other_formats_are_refused_whatever_they_are_called(data, monkeypatch, tmp_path):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("started"))
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(Unreadable, match="its format is unknown"):
        open_image(data, "x.png")
    root = pictures(tmp_path / "root", 19)
    (root / "cat.png").write_bytes(data)
    data = load(root, corrupt="skip", held_out_fraction=0.2)
    assert len(data.train) + len(data.held_out) == 19


def test_every_allowed_format_is_read_under_any_name(tmp_path):
    for kind in FORMATS:
        options = {"lossless": True} if kind == "WEBP" else {}
        found = open_image(as_bytes(picture(0), kind, **options), "x.gif")
        assert found.size == (8, 8)
        assert kind == "JPEG" or np.array_equal(np.asarray(found), np.asarray(picture(0)))


def test_pillow_is_told_the_formats_wherever_it_opens_an_image():
    calls = [
        (file.relative_to(PACKAGE).as_posix(), call)
        for file in PACKAGE.rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("Image.open", "PIL.Image.open")
    ]
    assert len(calls) >= 4
    assert [name for name, call in calls if "formats" not in {k.arg for k in call.keywords}] == []


def deep(kind):
    pixels = np.full((8, 8), 40_000, np.uint16)
    if kind == "PNG":
        return as_bytes(Image.fromarray(pixels), "PNG")
    if kind == "TIFF, grey":
        return as_bytes(Image.fromarray(pixels), "TIFF")
    if kind == "TIFF, float":
        return as_bytes(Image.fromarray(pixels.astype(np.float32)), "TIFF")
    # Pillow writes no RGB of 16 bits: little endian, one strip
    entries = {256: (3, 1, 8), 257: (3, 1, 8), 258: (3, 3, 134), 259: (3, 1, 1), 262: (3, 1, 2),
               273: (4, 1, 140), 277: (3, 1, 3), 278: (3, 1, 8), 279: (4, 1, 384)}  # fmt: skip
    body = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in entries.items())
    header = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + body + b"\0" * 4
    header = header.ljust(134, b"\0") + struct.pack("<HHH", 16, 16, 16)
    return header + np.full(192, 40_000, "<u2").tobytes()


@pytest.mark.parametrize("kind", ["PNG", "TIFF, grey", "TIFF, float", "TIFF, RGB"])
def test_more_than_8_bits_are_left_out_or_refused_by_data_corrupt(kind, tmp_path):
    with pytest.raises(TooDeep, match="more than 8 bits a channel") as caught:
        open_image(deep(kind), "x", 3)
    assert caught.value.exit_code == 2
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    root = pictures(tmp_path / "root", 19)
    (root / "deep.tif").write_bytes(deep(kind))
    data = load(root, corrupt="skip", held_out_fraction=0.2)
    assert len(data.train) + len(data.held_out) == 19
    with pytest.raises(TooDeep, match=r"deep.tif has more than 8 bits"):
        every((whole := load(root, held_out_fraction=0.2)).train), every(whole.held_out)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks):
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", header), *chunks, chunk(b"IEND", b"")])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # as decode.py does
def test_bombs_are_refused(tmp_path, monkeypatch):
    rows = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    with pytest.raises(Unreadable, match="pixels"):
        open_image(png(50_000, 50_000, rows), "wide")
    with pytest.raises(Unreadable, match="truncated"):  # large, allowed, and not there
        open_image(png(10_000, 10_000, rows), "large")
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 2**27))
    with pytest.raises(Unreadable):
        open_image(png(8, 8, text, rows), "text")
    monkeypatch.setattr(decode, "MAX_BYTES", 100)
    monkeypatch.setattr(image_files, "MAX_BYTES", 100)
    picture(0).save(tmp_path / "x.png")
    with pytest.raises(Unreadable, match="bytes"):
        ImageFiles(tmp_path).read(0)
    with pytest.raises(Unreadable, match="bytes"):
        open_image((tmp_path / "x.png").read_bytes(), "x")


def test_an_lmdb_that_is_cut_off_does_not_kill_the_process(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    folder = tmp_path / "church"
    folder.mkdir()
    with lmdb.open(str(folder), map_size=2**24) as base, base.begin(write=True) as transaction:
        for index in range(200):
            transaction.put(f"{index:04}".encode(), bytes(3000))
    file = folder / "data.mdb"
    whole = file.read_bytes()
    for size in (len(whole) // 2, len(whole) - 4096, 10_000):
        (place := tmp_path / f"cut{size}").mkdir()
        (place / "data.mdb").write_bytes(whole[:size])
        with pytest.raises(WorkFailed, match="cut off"):
            LmdbImages(place)
    assert len(LmdbImages(folder)) == 200


def test_a_parquet_file_that_unpacks_to_far_more_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    import pyarrow
    from pyarrow import parquet

    from deme.data import dataset_rows

    (tmp_path / "set").mkdir()
    table = pyarrow.table({"image": [b"\0" * 2**22]})
    parquet.write_table(
        table,
        tmp_path / "set" / "x.parquet",
        use_dictionary=False,
        compression="zstd",
        write_statistics=False,
    )
    monkeypatch.setattr(dataset_rows, "MIN_BOMB", 2**20)
    with pytest.raises(WorkFailed, match="when it is unpacked"):
        source_at(str(tmp_path / "set"))


# transparency


def one_pixel(*values, kind="PNG", mode="RGBA", **options):
    return as_bytes(Image.new(mode, (8, 8), values), kind, **options)


GREY = Image.new("P", (8, 8), 1)
GREY.putpalette([10, 20, 30, 7, 99, 200])
CASES = {  # encoded image: its colour on white, and on black
    "clear RGBA": (one_pixel(7, 99, 200, 0), (255, 255, 255), (0, 0, 0)),
    "half RGBA": (one_pixel(7, 99, 200, 51), (205, 224, 244), (1, 20, 40)),
    "opaque RGBA": (one_pixel(7, 99, 200, 255), (7, 99, 200), (7, 99, 200)),
    "grey with alpha": (one_pixel(40, 0, mode="LA"), (255,) * 3, (0,) * 3),
    "WebP": (one_pixel(7, 99, 200, 0, kind="WEBP", lossless=True), (255,) * 3, (0,) * 3),
    "TIFF": (one_pixel(7, 99, 200, 0, kind="TIFF"), (255,) * 3, (0,) * 3),
    "palette": (as_bytes(GREY, "PNG", transparency=1), (255,) * 3, (0,) * 3),
    "other index of a palette": (as_bytes(GREY, "PNG", transparency=0), (7, 99, 200), (7, 99, 200)),
    "a colour that is none": (as_bytes(Image.new("RGB", (8, 8), (7, 99, 200)), "PNG", transparency=(7, 99, 200)), (255,) * 3, (0,) * 3),
    "a grey that is none": (as_bytes(Image.new("L", (8, 8), 40), "PNG", transparency=40), (255,) * 3, (0,) * 3),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_transparent_pixels_show_the_background(name):
    data, on_white, on_black = CASES[name]
    for background, expected in (("white", on_white), ("#000000", on_black)):
        found = np.asarray(open_image(data, name, 3, background))
        assert np.abs(found.astype(int) - expected).max() <= 1, found[0, 0]
        grey = np.asarray(open_image(data, name, 1, background))
        assert np.array_equal(grey, np.asarray(Image.fromarray(found).convert("L")))
    assert np.array_equal(np.asarray(open_image(data, name, 3)), np.asarray(open_image(data, name, 3, "white")))  # fmt: skip
    assert is_transparent(data) == (on_white != on_black)


def test_the_content_hash_covers_the_background_of_transparent_images_alone(tmp_path):
    def content(folder, background):
        rules = Preprocessing(8, 3, background=background)
        source = ImageFiles(folder)
        return EncodedImages(source, range(len(source)), rules).content_hash()

    (tmp_path / "clear").mkdir()
    (tmp_path / "clear" / "x.png").write_bytes(CASES["clear RGBA"][0])
    (tmp_path / "opaque").mkdir()
    (tmp_path / "opaque" / "x.png").write_bytes(CASES["opaque RGBA"][0])
    assert content(tmp_path / "clear", "white") != content(tmp_path / "clear", "black")
    assert content(tmp_path / "clear", "white") == content(tmp_path / "clear", "#fff")
    assert content(tmp_path / "opaque", "white") == content(tmp_path / "opaque", "black")


def test_the_background_counts_in_a_runs_identity_where_it_is_not_white(tmp_path):
    words = ["data=image_folder", f"data.path={pictures(tmp_path / 'root')}"]

    def identity(config):
        return identity_hash(config, "train", {})

    white = compose_stage("train", words)
    older = {**white, "data": {k: v for k, v in white["data"].items() if k != "background"}}
    assert white["data"]["background"] == "white"
    assert identity(older) == identity(white)
    assert identity(compose_stage("train", [*words, "data.background=black"])) != identity(white)


def test_images_that_are_measured_as_they_are_lie_on_white(tmp_path):
    (tmp_path / "x.png").write_bytes(CASES["clear RGBA"][0])
    assert torch.equal(RawImageFolder(tmp_path).read(0), torch.full((3, 8, 8), 255).byte())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_every_format_is_upright(kind, orientation):
    image = Image.new("RGB", (16, 8))
    image.paste((255, 0, 0), (0, 0, 8, 8))
    told = Image.Exif()
    told[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    found = open_image(as_bytes(image, kind, exif=told, **options), "x")
    assert found.size == ((8, 16) if orientation > 4 else (16, 8))
    width, height = found.size
    corners = [found.getpixel(p)[0] > 128 for p in ((0, 0), (width - 1, 0), (0, height - 1))]
    expected = {1: (1, 0, 1), 2: (0, 1, 0), 3: (0, 1, 0), 4: (1, 0, 1),
                5: (1, 1, 0), 6: (1, 1, 0), 7: (0, 0, 1), 8: (0, 0, 1)}[orientation]  # fmt: skip
    assert corners == [bool(value) for value in expected]
