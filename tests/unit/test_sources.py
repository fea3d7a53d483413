"""LSUN's LMDB and Hugging Face data sets, made here: recognised by looking, read in any process, named when they are wrong."""

import io
import multiprocessing
import pickle
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from deme.data import every
from deme.data.dataset_rows import DatasetRows
from deme.data.image_files import ImageFiles
from deme.data.image_folder import load_image_folder, source_at
from deme.data.lmdb_images import LmdbImages
from deme.runs import compose_stage, instantiate
from deme.system.errors import BadConfig, MissingInput, WorkFailed

datasets = pytest.importorskip("datasets")
lmdb = pytest.importorskip("lmdb")
datasets.disable_progress_bars()


def encoded(index):
    pixels = np.random.default_rng(index).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = [encoded(index) for index in range(12)]


def write_lmdb(folder, images=IMAGES):
    folder.mkdir()
    with (
        lmdb.open(str(folder), map_size=2**24) as environment,
        environment.begin(write=True) as transaction,
    ):
        for index, data in reversed(list(enumerate(images))):
            transaction.put(f"{index:040x}".encode(), data)
    return folder


def write_files(folder):
    folder.mkdir()
    for index, data in enumerate(IMAGES):
        (folder / f"{index:02d}.png").write_bytes(data)
    return folder


def rows(images=IMAGES, column="image", kind=None):
    kind = kind or datasets.Image()
    values = (
        [{"bytes": data, "path": None} for data in images]
        if isinstance(kind, datasets.Image)
        else images
    )
    features = datasets.Features({"label": datasets.Value("int32"), column: kind})
    return datasets.Dataset.from_dict(
        {"label": [0] * len(images), column: values}, features=features
    )


def write_saved(folder):
    rows().save_to_disk(folder)
    return folder


def write_splits(folder):
    datasets.DatasetDict({"test": rows(IMAGES[:2]), "train": rows()}).save_to_disk(folder)
    return folder


def write_parquet(folder):
    (folder / "data").mkdir(parents=True)
    rows(IMAGES[:7]).to_parquet(folder / "data" / "train-00000-of-00002.parquet")
    rows(IMAGES[7:]).to_parquet(folder / "data" / "train-00001-of-00002.parquet")
    rows(IMAGES[:2]).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    return folder


def write_arrow(folder):
    folder.mkdir()
    rows().save_to_disk(folder.with_name("saved"))
    (saved,) = folder.with_name("saved").glob("*.arrow")
    shutil.copy(saved, folder / "train.arrow")
    return folder


def write_binary_column(folder):
    rows(column="img", kind=datasets.Value("binary")).save_to_disk(folder)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


KINDS = {
    write_lmdb: LmdbImages,
    write_files: ImageFiles,
    write_saved: DatasetRows,
    write_splits: DatasetRows,
    write_parquet: DatasetRows,
    write_arrow: DatasetRows,
    write_binary_column: DatasetRows,
}


@pytest.mark.parametrize("write", KINDS, ids=lambda f: f.__name__)
def test_every_form_is_recognised_and_gives_the_same_images(write, tmp_path):
    place = write(tmp_path / "place")
    source = source_at(str(place))
    assert type(source) is KINDS[write]
    assert [source.read(index) for index in range(len(source))] == IMAGES
    assert source.listing() == source_at(str(place)).listing()
    assert str(place) in source.name(3)
    one = load_image_folder(str(place), 8, 3, crop="center", held_out_fraction=0.25)
    other = load_image_folder(
        str(write_files(tmp_path / "files")), 8, 3, crop="center", held_out_fraction=0.25
    )
    assert one.train.content_hash() == other.train.content_hash()
    assert torch.equal(every(one.train), every(other.train))
    assert torch.equal(every(one.held_out), every(other.held_out))


def _read(source, index, answers):
    try:
        answers.put(source.read(index))
    except Exception as error:
        answers.put(repr(error))


@pytest.mark.parametrize("write", [write_lmdb, write_saved], ids=lambda f: f.__name__)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_source_is_read_in_other_processes(write, method, tmp_path):
    source = source_at(str(write(tmp_path / "place")))
    assert source.read(0) == IMAGES[0]  # open here already
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    worker = context.Process(target=_read, args=(source, 5, answers))
    worker.start()
    assert answers.get(timeout=60) == IMAGES[5]
    worker.join()
    assert source.read(1) == IMAGES[1]
    assert pickle.loads(pickle.dumps(source)).read(2) == IMAGES[2]


def test_lsun_is_cropped_at_random_and_not_mirrored(tmp_path):
    write_lmdb(tmp_path / "church")
    words = [
        "data=lsun_church",
        f"data.path={tmp_path}/church",
        "data.size=8",
        "data.held_out_fraction=0.25",
    ]
    data = instantiate(compose_stage("train", words)["data"])
    assert not data.random_flip
    with Image.open(io.BytesIO(IMAGES[data.train.indices[0]])) as image:
        resized = image.resize((11, 8), Image.Resampling.BILINEAR)
    left = np.asarray(resized.crop((0, 0, 8, 8)))
    assert torch.equal(
        data.train.cropped([0], [0.0])[0], torch.from_numpy(left.copy()).permute(2, 0, 1)
    )


def test_a_damaged_entry_is_named(tmp_path, messages):
    images = [*IMAGES[:3], IMAGES[3][:100], b"", *IMAGES[5:]]
    place = write_lmdb(tmp_path / "church", images)
    with pytest.raises(WorkFailed, match=f"2 of 12 images .*church, key {3:040x} \\("):
        load_image_folder(str(place), 8, 3, held_out_fraction=0.25, crop="center")
    data = load_image_folder(
        str(place), 8, 3, crop="random", held_out_fraction=0.25, corrupt="skip"
    )
    assert len(data.train) + len(data.held_out) == 10
    assert f"2 of 12 images cannot be read and are left out: {place}, key {3:040x} (" in messages[0]
    rows(images).save_to_disk(tmp_path / "saved")
    with pytest.raises(WorkFailed, match=r"2 of 12 images .*saved, row 4 \(it is empty\)"):
        load_image_folder(str(tmp_path / "saved"), 8, 3, crop="center", held_out_fraction=0.25)


def test_what_is_no_source_says_so(tmp_path):
    write_lmdb(tmp_path / "church_outdoor_train_lmdb")
    with pytest.raises(
        MissingInput, match=r"did you mean data.path=.*/church_outdoor_train_lmdb\?"
    ):
        source_at(str(tmp_path))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "data.mdb").write_bytes(b"x" * 9000)
    with pytest.raises(
        WorkFailed, match=r"data.mdb is not an LMDB that can be read: .*\nunpack it again"
    ):
        source_at(str(tmp_path / "broken"))
    write_lmdb(tmp_path / "empty", [])
    with pytest.raises(MissingInput, match="holds no images"):
        source_at(str(tmp_path / "empty"))
    (tmp_path / "parquet").mkdir()
    (tmp_path / "parquet" / "x.parquet").write_bytes(b"no table")
    with pytest.raises(WorkFailed, match=r"parquet is not a data set that can be read: "):
        source_at(str(tmp_path / "parquet"))
    datasets.Dataset.from_dict({"text": ["a"], "label": [1]}).save_to_disk(tmp_path / "texts")
    with pytest.raises(BadConfig, match=r"texts has no column of images; it has text, label"):
        source_at(str(tmp_path / "texts"))


def test_a_data_set_of_the_hub_without_a_network_says_what_to_type():
    with pytest.raises(MissingInput) as caught:
        source_at("datasets:nobody/nothing@main")
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(
        "datasets:nobody/nothing@main is not in the cache of data sets and cannot be downloaded: "
    )
    assert lines[1].startswith(
        "where there is a network, type: hf download --repo-type dataset nobody/nothing "
    )


@pytest.mark.parametrize(("library", "write"), [("lmdb", write_lmdb), ("datasets", write_saved)])
def test_a_library_that_is_not_there_is_named(library, write, tmp_path, monkeypatch):
    place = write(tmp_path / "place")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        MissingInput,
        match=rf"the library `{library}`, .* is not installed\ntype: pip install 'lmdb>=",
    ):
        source_at(str(place))
