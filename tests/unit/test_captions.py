"""Images with captions: every form gives the same pairs and the same split; what does not pair up is named or left out."""

import csv
import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from deme.data import Captioned, CaptionedImages, ImageData, InMemoryImages, SomeImages, every
from deme.data.captioned import load_captioned_images
from deme.data.image_folder import load_image_folder
from deme.data.split_dataset import part_of_held_out
from deme.system.errors import BadConfig, MissingInput, WorkFailed

NAMES = [f"{index:02d}.png" for index in range(20)]
TEXTS = {name: f"a picture, number {index}" for index, name in enumerate(NAMES)}


def write_images(folder, names=NAMES):
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (9, 13, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_jsonl(folder, texts=TEXTS, column="text"):
    rows = [{"file_name": name, column: text} for name, text in reversed(texts.items())]
    (write_images(folder) / "metadata.jsonl").write_text(jsonl(rows))
    return {"path": str(folder)}


def write_csv(folder):
    with open(write_images(folder) / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [("file_name", "size", "Caption"), *((n, 13, t) for n, t in TEXTS.items())]
        )
    return {"path": str(folder)}


def write_train(folder):
    write_jsonl(folder / "train")
    write_images(folder / "test")
    return {"path": str(folder)}


def coco(texts=TEXTS, more=()):
    images = [
        {"id": 500 - index, "file_name": name, "width": 13} for index, name in enumerate(NAMES)
    ]
    ids = {image["file_name"]: image["id"] for image in images}
    rows = [
        {"image_id": ids[name], "id": number, "caption": text}
        for number, (name, text) in enumerate(texts.items(), 100)
    ]
    return {"info": {}, "images": images, "annotations": [*more, *reversed(rows)]}


def write_coco(folder, **changes):
    file = folder.with_name(f"{folder.name}.json")
    file.write_text(json.dumps(coco(**changes)))
    return {"path": str(write_images(folder)), "captions": str(file)}


def write_elsewhere(folder):
    file = folder.with_name(f"{folder.name}.tsv")
    file.write_text(
        "file_name\tcaption\n" + "".join(f"./{name}\t{text}\n" for name, text in TEXTS.items())
    )
    return {"path": str(write_images(folder)), "captions": str(file)}


def rows_of(folder, captions, column="caption"):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    images = [
        {"bytes": (folder / name).read_bytes(), "path": None} for name in sorted(NAMES)
    ]  # the order in which files lie
    values = {"label": list(range(20)), "image": images, column: captions}
    return datasets.Dataset.from_dict(values).cast_column("image", datasets.Image())


def write_rows(folder):
    rows_of(write_images(folder.with_name("files")), list(TEXTS.values())).save_to_disk(folder)
    return {"path": str(folder)}


def load(words, **settings):
    return load_captioned_images(**{"size": 8, "held_out_fraction": 0.25, **words, **settings})


def pairs(images):
    return [
        (bytes(pixels.numpy().tobytes()), caption)
        for pixels, caption in zip(
            every(images), images.captions(list(range(len(images)))), strict=True
        )
    ]


FORMS = [write_jsonl, write_csv, write_train, write_coco, write_elsewhere, write_rows]


@pytest.mark.parametrize("in_memory", [None, False])
@pytest.mark.parametrize("write", FORMS, ids=lambda f: f.__name__)
def test_every_form_gives_the_pairs_and_the_split_of_the_folder(write, in_memory, tmp_path):
    data = load(write(tmp_path / "place"), in_memory=in_memory)
    files = write_images(tmp_path / "plain")
    plain = load_image_folder(str(files), 8, 3, held_out_fraction=0.25, in_memory=False)
    assert (data.random_flip, data.caption_dropout) == (False, 0.1)
    for found, expected in ((data.train, plain.train), (data.held_out, plain.held_out)):
        assert isinstance(found, Captioned)
        assert torch.equal(every(found), every(expected))
        assert found.captions(list(range(len(found)))) == [
            TEXTS[NAMES[index]] for index in expected.indices
        ]
        assert found.captions([2, 0, 2]) == [
            TEXTS[NAMES[expected.indices[index]]] for index in (2, 0, 2)
        ]
    (tmp_path / "other").mkdir()
    assert (
        data.train.content_hash()
        == load(write_jsonl(tmp_path / "other" / "place")).train.content_hash()
    )


def test_the_hash_covers_pixels_rules_and_captions(tmp_path):
    words = write_jsonl(tmp_path / "images")

    def content(**settings):
        return load(words, **settings).train.content_hash()

    first = content()
    assert (
        first
        == content(random_flip=True)
        == content(caption_dropout=0.5)
        == content(cache=tmp_path / "cache")
    )
    assert (
        len(
            {
                first,
                content(size=9),
                content(crop="none"),
                content(channels=1),
                content(resize="box"),
            }
        )
        == 5
    )
    write_jsonl(tmp_path / "images", {**TEXTS, NAMES[0]: "another", NAMES[1]: "another"})
    assert content() != first
    write_jsonl(tmp_path / "images")
    assert content() == first
    Image.new("RGB", (13, 9)).save(tmp_path / "images" / NAMES[load_kept(words)[0]])
    assert content() != first


def load_kept(words):
    return load(words, in_memory=False).train.images.indices


def test_the_first_caption_of_an_image_is_used_and_the_others_are_counted(tmp_path, messages):
    later = [{"image_id": 500 - index, "id": 900 + index, "caption": "later"} for index in range(7)]
    data = load(write_coco(tmp_path / "images", more=later))
    assert "later" not in {caption for _, caption in pairs(data.train) + pairs(data.held_out)}
    (line,) = messages
    assert line.startswith("7 further captions in ")
    rows = rows_of(tmp_path / "images", [[text, "later", "last"] for text in TEXTS.values()])
    rows.save_to_disk(tmp_path / "rows")
    again = load({"path": str(tmp_path / "rows")})
    assert again.train.content_hash() == data.train.content_hash()
    assert messages[1].startswith("40 further captions in ")


def test_white_space_is_one_space(tmp_path):
    data = load(
        write_jsonl(
            tmp_path / "images", {name: f" {text}\n\n too " for name, text in TEXTS.items()}
        )
    )
    assert data.held_out.captions([0])[0].endswith(" too")
    assert "\n" not in data.held_out.captions([0])[0]
    assert "  " not in data.held_out.captions([0])[0]


def without(*names):
    return {name: text for name, text in TEXTS.items() if name not in names}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (without("03.png", "05.png"), r"images in .*images without a caption in .*metadata.jsonl: 2, the first: 03.png\n"),
        ({**TEXTS, "x.png": "a", "b/y.png": "b"}, r"captions in .*metadata.jsonl of images that .*images does not hold: 2, the first: "),
        ({**TEXTS, "07.png": " ", "09.png": None}, r"empty captions in .*metadata.jsonl: 2, the first: 07.png\n"),
    ],
)  # fmt: skip
def test_what_does_not_pair_up_is_refused_or_left_out(texts, message, tmp_path, messages):
    words = write_jsonl(tmp_path / "images", texts)
    with pytest.raises(MissingInput, match=message) as caught:
        load(words)
    first, second = str(caught.value).splitlines()
    assert second.endswith("data.corrupt=skip")
    data = load(words, corrupt="skip")
    assert messages == [f"{first}; left out"]
    whole = load(write_jsonl(tmp_path / "images"))  # the split of those that stay is the same
    gone = {name for name in NAMES if not (texts.get(name) or "").strip()}
    for side in ("train", "held_out"):
        kept = [
            pair
            for pair in pairs(getattr(whole, side))
            if pair[1] not in {TEXTS[name] for name in gone}
        ]
        assert pairs(getattr(data, side)) == kept


def test_rows_without_a_caption_are_named(tmp_path):
    captions = [None if index in (4, 6) else f"row {index}" for index in range(20)]
    rows_of(write_images(tmp_path / "files"), captions).save_to_disk(tmp_path / "rows")
    words = {"path": str(tmp_path / "rows")}
    with pytest.raises(
        MissingInput, match=r"empty captions in .*rows: 2, the first: .*rows, row 4\n"
    ):
        load(words)
    data = load(words, corrupt="skip")
    assert len(data.train) + len(data.held_out) == 18
    with pytest.raises(BadConfig, match=r"rows, row 0 \(column label\): a text is expected, got 0"):
        load(words, caption_column="label")
    rows_of(tmp_path / "files", captions).select_columns(["image"]).save_to_disk(
        tmp_path / "images_alone"
    )
    with pytest.raises(
        BadConfig, match=r"images_alone has no column of captions, only that of the images, image"
    ):
        load({"path": str(tmp_path / "images_alone")})


def test_damaged_images_are_left_out_with_their_captions(tmp_path, messages):
    words = write_jsonl(tmp_path / "images")
    whole = load(words)
    expected = {side: pairs(getattr(whole, side)) for side in ("train", "held_out")}
    (tmp_path / "images" / NAMES[6]).write_bytes(b"")
    with pytest.raises(WorkFailed, match=r"06.png is not an image that can be read: it is empty"):
        every(load(words).train), every(load(words).held_out)
    data = load(words, corrupt="skip")
    assert messages[0].startswith("1 of 20 images cannot be read and are left out: ")
    for side, before in expected.items():
        assert pairs(getattr(data, side)) == [pair for pair in before if pair[1] != TEXTS[NAMES[6]]]


def instances(found):
    for row in found["annotations"]:
        row["bbox"] = row.pop("caption")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (instances, r"annotations.0.caption is missing\nCOCO's format: "),
        (lambda found: found.pop("images"), r"images is missing\nCOCO's format: "),
        (lambda found: found["annotations"].append({"image_id": 7, "id": 1, "caption": "x"}), r"does not hold: 1, the first: 7"),
    ],
)  # fmt: skip
def test_annotations_of_another_form_are_refused(change, message, tmp_path):
    words = write_coco(tmp_path / "images")
    found = coco()
    change(found)
    (tmp_path / "images.json").write_text(json.dumps(found))
    with pytest.raises((BadConfig, MissingInput), match=message):
        load(words)
    (tmp_path / "images.json").write_text(json.dumps(found)[:-30])
    with pytest.raises(WorkFailed, match=r"images.json is damaged: not JSON at line 1: "):
        load(words)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": "random"}, "(?s)data.crop=random.*\ntype: data.crop=center"),
        ({"crop": "centre"}, "data.crop must be one of center, random, none"),
        ({"caption_dropout": 1.5}, r"data.caption_dropout must be a share in \[0, 1\], got 1.5"),
        ({"caption_dropout": "10%"}, r"data.caption_dropout must be a share in \[0, 1\], got '10%'"),
        ({"size": None}, "data.size must be given, because .*\ntype: data.size=<value>"),
        ({"channels": None}, "data.channels must be given"),
        ({"corrupt": "ignore"}, "data.corrupt must be refuse or skip"),
        ({"caption_column": "txt"}, r"has no column 'txt'; did you mean 'text'\? its columns: file_name, text\ntype: data.caption_column="),
        ({"path": "datasets:a/b", "captions": "x.json"}, "(?s)data.captions=.*datasets:a/b.*\ntype: data.captions=null"),
    ],
)  # fmt: skip
def test_settings_that_are_none_are_refused(settings, message, tmp_path):
    with pytest.raises(BadConfig, match=message):
        load(write_jsonl(tmp_path / "images"), **settings)


def test_files_and_columns_that_are_not_there_are_named(tmp_path):
    folder = write_images(tmp_path / "images")
    with pytest.raises(
        MissingInput,
        match=r"holds no captions: neither metadata.jsonl nor metadata.csv, .*\ntype: data.captions=",
    ):
        load({"path": str(folder)})
    with pytest.raises(MissingInput, match=r"none.json does not exist"):
        load({"path": str(folder), "captions": str(tmp_path / "none.json")})
    (tmp_path / "empty").mkdir()
    coco_file = write_coco(tmp_path / "images")["captions"]
    with pytest.raises(MissingInput, match=r"empty holds no images"):
        load({"path": str(tmp_path / "empty"), "captions": coco_file})
    with pytest.raises(
        BadConfig, match=r"has COCO's form, without columns\ntype: data.caption_column=null"
    ):
        load({"path": str(folder), "captions": coco_file, "caption_column": "caption"})
    write_jsonl(folder, column="words")
    with pytest.raises(
        BadConfig,
        match=r"its columns: file_name, words\ntype: data.caption_column=<column>",
    ):
        load({"path": str(folder)})
    assert len(load({"path": str(folder), "caption_column": "words"}).train) == 15
    (folder / "metadata.jsonl").write_text(jsonl([{"image": "00.png", "text": "a"}]))
    with pytest.raises(BadConfig, match=r"has no column file_name.*; its columns: image, text"):
        load({"path": str(folder)})
    (folder / "metadata.jsonl").write_text(
        jsonl([{"file_name": "00.png", "text": "a"}, {"file_name": "", "text": "a"}])
    )
    with pytest.raises(BadConfig, match=r"metadata.jsonl, line 2: file_name is empty"):
        load({"path": str(folder)})
    (folder / "metadata.jsonl").write_text("")
    with pytest.raises(MissingInput, match=r"metadata.jsonl holds no texts"):
        load({"path": str(folder)})


def test_some_of_captioned_images_are_captioned_and_some_of_others_are_not():
    pixels = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 1, 2, 2)
    captioned = CaptionedImages(InMemoryImages(pixels), list("abcde"))
    some = SomeImages(captioned, [4, 1, 2])
    assert isinstance(some, Captioned)
    assert some.captions([0, 2]) == ["e", "c"]
    assert every(some)[:, 0, 0, 0].tolist() == [4, 1, 2]
    assert SomeImages(some, indices=[1]).captions([0]) == ["b"]
    assert not isinstance(SomeImages(InMemoryImages(pixels), [4, 1]), Captioned)
    assert pickle.loads(pickle.dumps(some)).captions([1]) == ["b"]  # workers that read
    assert type(pickle.loads(pickle.dumps(SomeImages(InMemoryImages(pixels), [4])))) is SomeImages
    other = SomeImages(CaptionedImages(InMemoryImages(pixels), list("abcdf")), [4, 1, 2])
    assert other.content_hash() != some.content_hash()


def test_the_content_hash_covers_captions_and_their_order():
    pixels = InMemoryImages(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
    hashes = {
        CaptionedImages(pixels, texts).content_hash()
        for texts in (["a", "b"], ["b", "a"], ["a b", ""])
    }
    assert len(hashes) == 3


def test_the_parts_of_the_held_out_images_share_none_and_are_fixed():
    pixels = torch.arange(21, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    images = CaptionedImages(InMemoryImages(pixels), [f"number {index}" for index in range(21)])
    data = ImageData(images, images, caption_dropout=0.5)
    parts = [part_of_held_out(data, part) for part in ("validation", "test", "validation")]
    numbers = [every(part.held_out)[:, 0, 0, 0].tolist() for part in parts]
    assert numbers[0] == numbers[2]
    assert sorted(numbers[0] + numbers[1]) == list(range(21))
    assert {len(each) for each in numbers} == {10, 11}
    assert {part.caption_dropout for part in parts} == {0.5}
    assert all(part.train is images for part in parts)
    assert isinstance(parts[1].held_out, Captioned)
    assert parts[1].held_out.captions([0]) == [f"number {numbers[1][0]}"]
    assert parts[0].held_out.content_hash() != parts[1].held_out.content_hash()
    assert part_of_held_out(data, None) is data
