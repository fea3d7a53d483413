"""What is sent of a run: one definition for every tracker, live and afterwards.

Names of keys are listed in docs/sweeps-and-tracking.md#keys.
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
    """What is recorded of a training step, or of an evaluation of a search.

    `time`: seconds since 1970, where it is known. `images`: pictures of that step by name.
    """

    step: int
    values: Mapping[str, float]
    time: float | None = None
    images: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """Something that a run takes or makes: weights, merge weights or metrics.

    `sha256`: of its content, None where it was not recorded. `place`: where its files are, if they
    are here. The same artifact has the same name in the run that makes it and in those that take
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
        """Return its files with their names; links, which may lead anywhere, are left out."""
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

    `home`: the folder where trackers that write files write them by default. `began` and `ended`:
    seconds since 1970.
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
        """The step of the last point, 0 without any."""
        return self.curve[-1].step if self.curve else 0

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers of the summary."""
        return {name: value for name, value in self.summary.items() if not isinstance(value, str)}

    @property
    def texts(self) -> dict[str, str]:
        """The texts of the summary."""
        return {name: value for name, value in self.summary.items() if isinstance(value, str)}


def is_picture(file: Path) -> bool:
    """Whether a file, which may be somebody else's, is a PNG and no link."""
    if file.is_symlink() or not file.is_file():
        return False
    with open(file, "rb") as opened:
        return opened.read(len(PNG)) == PNG


def tracker_id(*parts: str) -> str:
    """Return one id of several names, such as suite, stage and run, that every tracker takes.

    Names with other characters, and ids that are too long, get a part of their hash.
    """
    text = "-".join(parts)
    plain = NO_ID.sub("_", text)
    if plain == text and len(plain) <= MAX_ID:
        return plain
    return f"{plain[: MAX_ID - 11]}-{files.sha256_text(text)[:10]}"
