"""The content that is sent of a run: one definition for every tracker.

The names of keys are listed in docs/sweeps-and-tracking.md#keys.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deme.system import files

MAX_ID = 120  # characters; Weights & Biases allows 128
NO_ID = re.compile(r"[^A-Za-z0-9_.-]")  # in an id or the name of an artifact

PNG = b"\x89PNG\r\n\x1a\n"

CellValue = str | int | float | None | Path  # of a table; a path is a picture


@dataclass(frozen=True)
class Point:
    """The values recorded at a training step, or at an evaluation of a search.

    `time`: seconds since 1970, if known. `images`: pictures of that step by name.
    """

    step: int
    values: Mapping[str, float]
    time: float | None = None
    images: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """An input or output of a run: weights, merge weights or metrics.

    `sha256`: hash of the content, None if not recorded. `place`: the path of its files, if they are
    on this machine. An artifact has the same name in the run that makes it and in runs that read
    it.
    """

    name: str
    kind: str
    sha256: str | None
    place: Path | None = None

    def listed(self) -> dict[str, str | None]:
        """Return name, kind and digest."""
        return {"name": self.name, "kind": self.kind, "sha256": self.sha256}

    def files(self) -> list[tuple[str, Path]]:
        """Return its files with their names; links are left out, as they may lead anywhere."""
        if self.place is None or self.place.is_symlink():
            return []
        inside = sorted(self.place.rglob("*")) if self.place.is_dir() else [self.place]
        found = [file for file in inside if file.is_file() and not file.is_symlink()]
        root = self.place if self.place.is_dir() else self.place.parent
        return [
            (file.relative_to(root).as_posix(), file)
            for file in found
            if not any(part.startswith(".") for part in file.relative_to(root).parts)
        ]


@dataclass(frozen=True)
class Table:
    """A table of numbers, texts and pictures."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[CellValue]]


@dataclass(frozen=True)
class Record:
    """Everything that is sent of a run, or of a suite's table.

    `home`: the default folder of trackers that write files. `began` and `ended`: seconds since
    1970.
    """

    id: str
    name: str
    suite: str
    stage: str
    state: str
    home: Path
    began: float
    ended: float
    tags: tuple[str, ...] = ()
    notes: str = ""
    commit: str | None = None
    config: Mapping[str, object] = field(default_factory=dict)
    curve: Sequence[Point] = ()
    summary: Mapping[str, float | str] = field(default_factory=dict)
    images: Mapping[str, Path] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    inputs: tuple[Artifact, ...] = ()
    outputs: tuple[Artifact, ...] = ()

    @property
    def last_step(self) -> int:
        """The step of the last point, 0 without points."""
        return self.curve[-1].step if self.curve else 0

    @property
    def result(self) -> Point:
        """The numbers and the pictures of the end, as a point after those of the curve."""
        return Point(self.last_step, self.numbers, self.ended, self.images)

    @property
    def artifacts(self) -> Table:
        """The inputs and the outputs."""
        rows = [
            (direction, item.name, item.kind, item.sha256)
            for direction, found in (("input", self.inputs), ("output", self.outputs))
            for item in found
        ]
        return Table(("direction", "name", "kind", "sha256"), rows)

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers of the summary."""
        return {name: value for name, value in self.summary.items() if not isinstance(value, str)}

    @property
    def texts(self) -> dict[str, str]:
        """The texts of the summary."""
        return {name: value for name, value in self.summary.items() if isinstance(value, str)}


def is_picture(file: Path) -> bool:
    """Whether a file, which another person may have written, is a PNG and not a link."""
    if file.is_symlink() or not file.is_file():
        return False
    with open(file, "rb") as opened:
        return opened.read(len(PNG)) == PNG


def tracker_id(*parts: str) -> str:
    """Return an id made of names, such as suite, stage and run, that every tracker accepts.

    If characters are replaced, or the id is too long, part of a hash of the names is added.
    """
    text = "-".join(parts)
    plain = NO_ID.sub("_", text)
    if plain == text and len(plain) <= MAX_ID:
        return plain
    return f"{plain[: MAX_ID - 11]}-{files.sha256_text(text)[:10]}"
