"""Captions by file name: the metadata of Hugging Face's imagefolder, and COCO's annotations."""

from pathlib import Path, PurePosixPath
from typing import Any

from deme.data.text_table import chosen, one_line, parsed, read_table, read_text
from deme.system import BadConfig

METADATA = ("metadata.jsonl", "metadata.csv")
FILE_NAME = "file_name"


def captions_in(file: Path, column: str | None) -> list[tuple[str, str]]:
    """Return (file name, caption) for every caption of a json, jsonl, csv or tsv file, in order.

    File names are relative to the folder of the images; an image may have several captions. Raises
    BadConfig, MissingInput, WorkFailed.
    """
    if file.suffix.lower() == ".json" and isinstance(found := parsed(file, read_text(file)), dict):
        if column is not None:
            raise BadConfig(
                f"{file} has COCO's form, without columns\ntype: data.caption_column=null"
            )
        return _coco(file, found)
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


def _coco(file: Path, found: dict[str, Any]) -> list[tuple[str, str]]:
    """Read COCO's captions in the order of annotation ids.

    The image of an annotation that `images` does not list is named by its id.
    """
    try:
        names = {image["id"]: image["file_name"] for image in found["images"]}
        return [
            (
                PurePosixPath(str(names.get(one["image_id"], one["image_id"]))).as_posix(),
                one_line(one["caption"], f"{file}, annotation {one['id']}"),
            )
            for one in sorted(found["annotations"], key=lambda one: one["id"])
        ]
    except (KeyError, TypeError) as error:
        raise BadConfig(
            f"{file} is not in COCO's format: {error} is missing or of another type\n"
            "expected: images: [{id, file_name}], annotations: [{id, image_id, caption}], "
            "as in captions_train2014.json"
        ) from error
