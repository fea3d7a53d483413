"""Images in a Hugging Face data set: a folder that `save_to_disk` wrote, a folder of parquet or arrow files, or one on the Hub."""

from pathlib import Path
from typing import Any

from deme.data.optional import needed
from deme.system.errors import BadConfig, MissingInput, WorkFailed
from deme.system.paths import DATASETS

SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` leaves


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds a Hugging Face data set."""
    return any((folder / name).is_file() for name in SAVED) or any(_tables(folder))


def _tables(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix in (".parquet", ".arrow"))


class DatasetRows:
    """The images of a data set's `train` split, in the order of its rows; still encoded."""

    def __init__(self, rows: Any, where: str, about: str = "") -> None:
        datasets = _datasets()
        if isinstance(rows, dict):
            if "train" not in rows and len(rows) != 1:
                raise BadConfig(f"{where} has no split `train`; it has {', '.join(rows)}")
            rows = rows["train"] if "train" in rows else next(iter(rows.values()))
        images = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
        named = [
            name for name in ("image", "img") if name in rows.features
        ]  # bytes that nobody declared images
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
        datasets = _datasets()
        try:
            if any((folder / name).is_file() for name in SAVED):
                rows = datasets.load_from_disk(str(folder))
            else:
                rows = datasets.load_dataset(str(folder.absolute()))
        except Exception as error:
            raise WorkFailed(
                f"{folder} is not a data set that can be read: {_first_line(error)}"
            ) from error
        stats = ((file, file.stat()) for file in _tables(folder))
        return cls(
            rows,
            str(folder),
            " ".join(f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats),
        )

    @classmethod
    def on_hub(cls, path: str) -> "DatasetRows":
        """Open `datasets:owner/name` or `datasets:owner/name@revision`, downloaded unless it is in the cache."""
        name, _, revision = path.removeprefix(DATASETS).partition("@")
        datasets = _datasets()
        try:
            rows = datasets.load_dataset(name, revision=revision or None)
        except Exception as error:
            raise MissingInput(
                f"{path} is not in the cache of data sets and cannot be downloaded: {_first_line(error)}\n"
                f"where there is a network, type: hf download --repo-type dataset {name} --local-dir <folder>; "
                "then copy the folder and give its path"
            ) from error
        return cls(rows, path)

    @property
    def columns(self) -> list[str]:
        """The names of all columns but that of the images."""
        return list(self.others.column_names)

    def values(self, column: str) -> list[Any]:
        """Return all values of one of those columns."""
        return list(self.others[column])

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return f"{self.where}, row {index}"

    def read(self, index: int) -> bytes:
        value = self.rows[index][self.column]
        if isinstance(value, dict):  # {"bytes": ..., "path": ...}, one of which may be None
            value = (
                value["bytes"]
                if value["bytes"] is not None
                else _file(value["path"], self.name(index))
            )
        return b"" if value is None else bytes(value)

    def listing(self) -> str:
        """Return what the data set is: its name, its fingerprint, its files' sizes and times of change."""
        return self.about


def _file(path: str | None, name: str) -> bytes:
    if path is None:
        return b""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise MissingInput(
            f"{name} is the file {path}, which cannot be read: {error.strerror}"
        ) from error


def _datasets() -> Any:
    return needed("datasets", "reads Hugging Face data sets")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
