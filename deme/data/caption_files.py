"""Captions by file name: the metadata of Hugging Face's imagefolder, and COCO's annotations."""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from deme.data.text_table import one_line, parsed, read_table, read_text
from deme.system import BadConfig

METADATA = ("metadata.jsonl", "metadata.csv")
FILE_NAME = "file_name"


@dataclass
class Captions:
    """The first caption of each image by file name, relative to the images' folder.

    `further` counts the captions that are not the first of their image.
    """

    by_name: dict[str, str] = field(default_factory=dict)
    further: int = 0

    def add(self, name: str, caption: str) -> None:
        """Add a caption unless its image has one."""
        name = PurePosixPath(name).as_posix()  # ./a.png is a.png
        self.further += name in self.by_name
        self.by_name.setdefault(name, caption)


def captions_in(file: Path, column: str | None) -> Captions:
    """Return the captions of a json, jsonl, csv or tsv file. Raises BadConfig, MissingInput, WorkFailed."""
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
    column = table.column(column, "data.caption_column")
    captions = Captions()
    for row in table.rows:
        where = f"{file}, {row.place}"
        name = row.values.get(FILE_NAME)
        if not isinstance(name, str) or not name:
            raise BadConfig(f"{where}: {FILE_NAME} is empty")
        captions.add(name, one_line(row.values.get(column), where))
    return captions


def _coco(file: Path, found: dict[str, Any]) -> Captions:
    """Read COCO's captions in the order of annotation ids.

    The image of an annotation that `images` does not list is named by its id.
    """
    try:
        names = {image["id"]: image["file_name"] for image in found["images"]}
        annotations = sorted(found["annotations"], key=lambda one: one["id"])
        rows = [
            (str(names.get(one["image_id"], one["image_id"])), one["caption"], one["id"])
            for one in annotations
        ]
    except (KeyError, TypeError) as error:
        raise BadConfig(
            f"{file} is not in COCO's format: {error} is missing or of another type\n"
            "expected: images: [{id, file_name}], annotations: [{id, image_id, caption}], "
            "as in captions_train2014.json"
        ) from error
    captions = Captions()
    for name, caption, number in rows:
        if name in captions.by_name:  # four of five: not checked
            captions.further += 1
        else:
            captions.add(name, one_line(caption, f"{file}, annotation {number}"))
    return captions
