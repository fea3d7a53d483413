"""Captions by file name: the metadata of Hugging Face's imagefolder, and COCO's annotations."""

from pathlib import Path, PurePosixPath

from typing_extensions import TypedDict

from deme.data.text_table import CONVERT, MAX_BYTES, chosen, one_line, read_table
from deme.system import BadConfig, WorkFailed, checked, parse_json, read_text

METADATA = ("metadata.jsonl", "metadata.csv")
FILE_NAME = "file_name"


def captions_in(file: Path, column: str | None) -> list[tuple[str, str]]:
    """Return (file name, caption) for every caption of a json, jsonl, csv or tsv file, in order.

    File names are relative to the folder of the images; an image may have several captions. Raises
    BadConfig, MissingInput, WorkFailed.
    """
    if file.suffix.lower() == ".json" and file.is_file():
        text = read_text(file, MAX_BYTES, CONVERT)
        if text.lstrip().startswith("{"):
            if column is not None:
                raise BadConfig(
                    f"{file} has COCO's form, without columns\ntype: data.caption_column=null"
                )
            return _coco(file, text)
    table = read_table(file)
    if FILE_NAME not in table.columns:
        listed = ", ".join(table.columns) or "none"
        raise BadConfig(
            f"{file} has no column {FILE_NAME} for the image of each caption; its columns: {listed}"
        )
    column = chosen(table.columns, column, "data.caption_column", str(file))
    pairs = []
    for row in table.rows:
        where, name = f"{file}, {row.place}", row.values.get(FILE_NAME)
        if not isinstance(name, str) or not name:
            raise BadConfig(f"{where}: {FILE_NAME} is empty")
        plain = PurePosixPath(name).as_posix()  # ./a.png is a.png
        pairs.append((plain, one_line(row.values.get(column), where)))
    return pairs


class _Image(TypedDict):
    id: int
    file_name: str


class _Annotation(TypedDict):
    id: int
    image_id: int
    caption: str


class _Coco(TypedDict):
    images: list[_Image]
    annotations: list[_Annotation]


FORMAT = (
    "COCO's format: images: [{id, file_name}], annotations: [{id, image_id, caption}], as in "
    "captions_train2014.json"
)


def _coco(file: Path, text: str) -> list[tuple[str, str]]:
    """Read COCO's captions in the order of annotation ids.

    The image of an annotation that `images` does not list is named by its id.
    """
    found = parse_json(text, file, object, CONVERT)
    try:
        found = checked(found, _Coco, file, FORMAT)
    except WorkFailed as error:
        raise BadConfig(str(error)) from error
    names = {image["id"]: image["file_name"] for image in found["images"]}
    return [
        (
            PurePosixPath(names.get(one["image_id"], str(one["image_id"]))).as_posix(),
            one_line(one["caption"], f"{file}, annotation {one['id']}"),
        )
        for one in sorted(found["annotations"], key=lambda one: one["id"])
    ]
