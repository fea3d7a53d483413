"""The captions in a Hugging Face data set."""

from deme.data.dataset_rows import DatasetRows
from deme.data.decoded_once import Say
from deme.data.text_table import chosen, one_line
from deme.system.errors import BadConfig


def row_captions(rows: DatasetRows, column: str | None, say: Say) -> list[str]:
    """Return the caption of each row, "" where there is none; of a list of captions the first. Raises BadConfig."""
    if not rows.columns:
        raise BadConfig(
            f"{rows.where} has no column of captions, only that of the images, {rows.column}"
        )
    name = chosen(rows.columns, column, "data.caption_column", rows.where)
    found, further = [], 0
    for index, value in enumerate(rows.values(name)):
        if isinstance(value, (list, tuple)):
            further += max(0, len(value) - 1)
            value = value[0] if value else None
        found.append(one_line(value, f"{rows.name(index)} (column {name})"))
    if further:
        say(
            f"{further:,} further captions in {rows.where} are left out: the first of each image is used"
        )
    return found
