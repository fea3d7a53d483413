"""Images in a Hugging Face data set.

A folder of `save_to_disk`, parquet or arrow files, or a data set on the Hub.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deme.data.image_files import listing, read_image
from deme.data.text_table import chosen, one_line
from deme.system import (
    DATASETS,
    BadConfig,
    MissingInput,
    WorkFailed,
    first_line,
    list_files,
    logger,
    optional_module,
)

# what the library does, and the extra that installs it
NEEDED = "reads Hugging Face data sets", "lsun"
MIN_BOMB = 2**30  # bytes; what is packed more than MAX_EXPANSION times and larger is not unpacked
MAX_EXPANSION = 100
SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` writes
# in the names of files and folders; a data set that has other files is not trained on these
OTHER_SPLITS = {"test", "testing", "eval", "evaluation", "valid", "validation", "val", "dev"}


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds a Hugging Face data set."""
    return any((folder / name).is_file() for name in SAVED) or any(_tables(folder))


def _tables(folder: Path) -> list[Path]:
    return [file for file in list_files(folder).files if file.suffix in (".parquet", ".arrow")]


def _training_tables(folder: Path, tables: Sequence[Path]) -> list[Path]:
    """Return the tables of the split `train`: all, without those that are named as other splits."""
    named = {table: _words(table.relative_to(folder)) for table in tables}
    return [table for table, words in named.items() if not words & OTHER_SPLITS] or list(tables)


def _words(path: Path) -> set[str]:
    return set(re.split(r"[\W\d_]+", path.as_posix().lower()))


def _is_text(kind: Any) -> bool:
    """Whether a column holds texts or numbers, or lists of them: nothing that is decoded."""
    inner = kind[0] if isinstance(kind, list) else getattr(kind, "feature", None)
    return type(kind).__name__ == "Value" if inner is None else _is_text(inner)


def _check_sizes(tables: Sequence[Path]) -> None:
    """Raise ValueError for a parquet file that is far larger when it is unpacked."""
    parquet = optional_module("pyarrow.parquet", *NEEDED)
    for file in (table for table in tables if table.suffix == ".parquet"):
        footer, packed = parquet.read_metadata(file), file.stat().st_size
        size = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
        if size > max(MIN_BOMB, MAX_EXPANSION * packed):
            raise ValueError(
                f"{file.name} has {packed:,} bytes, {size:,} when it is unpacked; "
                f"allowed are {MAX_EXPANSION} times as many"
            )


class DatasetRows:
    """The encoded images of a data set's `train` split, in the order of its rows."""

    def __init__(self, rows: Any, where: str, about: str = "") -> None:
        datasets = optional_module("datasets", *NEEDED)
        if isinstance(rows, dict):
            if "train" not in rows and len(rows) != 1:
                raise BadConfig(f"{where} has no split `train`; it has {', '.join(rows)}")
            rows = rows["train"] if "train" in rows else next(iter(rows.values()))
        images = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
        # columns of bytes that are not declared as images
        named = [name for name in ("image", "img") if name in rows.features]
        if not images and not named:
            raise BadConfig(
                f"{where} has no column of images; it has {', '.join(rows.features) or 'none'}"
            )
        self.where, self.column = where, (images or named)[0]
        self.about = f"{where} {about} {rows._fingerprint} {len(rows)}"
        if images:
            rows = rows.cast_column(self.column, datasets.Image(decode=False))
        self.rows = rows.select_columns([self.column]).with_format(None)
        self.others = rows.remove_columns([self.column]).with_format(None)

    @classmethod
    def in_folder(cls, folder: Path) -> "DatasetRows":
        """Open a folder. Raises WorkFailed if it cannot be read."""
        datasets = optional_module("datasets", *NEEDED)
        tables = _tables(folder)
        saved = any((folder / name).is_file() for name in SAVED)
        try:
            _check_sizes(tables)
            if saved:
                rows = datasets.load_from_disk(str(folder.absolute()))
            else:  # these files and no others, whatever a README.md in their folder says
                used = _training_tables(folder, tables)
                kind = used[0].suffix
                places = [str(table.absolute()) for table in used if table.suffix == kind]
                rows = datasets.load_dataset(kind[1:], data_files=places)
        except Exception as error:
            raise WorkFailed(
                f"{folder} is not a data set that can be read: {first_line(error)}"
            ) from error
        return cls(rows, str(folder), " ".join(listing(tables)))

    @classmethod
    def on_hub(cls, path: str) -> "DatasetRows":
        """Open `datasets:owner/name[@revision]`, downloaded unless it is in the cache.

        Raises MissingInput.
        """
        name, _, revision = path.removeprefix(DATASETS).partition("@")
        datasets = optional_module("datasets", *NEEDED)
        try:
            rows = datasets.load_dataset(name, revision=revision or None)
        except Exception as error:
            raise MissingInput(
                f"{path} is not in the cache of data sets and cannot be downloaded: "
                f"{first_line(error)}\nwhere there is a network, type: "
                f"hf download --repo-type dataset {name} --local-dir <folder>; "
                "then copy the folder and give its path"
            ) from error
        return cls(rows, path)

    def captions(self, column: str | None) -> list[str]:
        """Return the caption of each row, "" where there is none; of a list of captions the first.

        `column` None is the only column with an obvious name. Raises BadConfig.
        """
        if not self.others.column_names:
            raise BadConfig(
                f"{self.where} has no column of captions, only that of the images, {self.column}"
            )
        name = chosen(self.others.column_names, column, "data.caption_column", self.where)
        if not _is_text(self.others.features[name]):
            raise BadConfig(
                f"column {name} of {self.where} holds no texts: {self.others.features[name]!s:.200}"
                "\ntype: data.caption_column=<column>"
            )
        found, further = [], 0
        for index, value in enumerate(self.others[name]):
            if isinstance(value, (list, tuple)):
                further += max(0, len(value) - 1)
                value = value[0] if value else None
            found.append(one_line(value, f"{self.name(index)} (column {name})"))
        if further:
            logger.info(
                f"{further:,} further captions in {self.where} are left out: "
                "the first of each image is used"
            )
        return found

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return f"{self.where}, row {index}"

    def read(self, index: int) -> bytes:
        value = self.rows[index][self.column]
        if isinstance(value, dict):  # {"bytes": ..., "path": ...}, one of which may be None
            stored, path = value["bytes"], value["path"]
            if stored is None and path is not None:
                return read_image(Path(path), self.name(index))
            value = stored
        return b"" if value is None else bytes(value)

    def listing(self) -> str:
        """Return the data set's name and fingerprint and its files' sizes and times of change."""
        return self.about
