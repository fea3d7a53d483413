"""The parts of a study on disk, and its numbers as a JSON file."""

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor
from typing_extensions import TypedDict

from deme.system import (
    BadConfig,
    DemeError,
    NotFinite,
    disk_errors,
    files,
    logger,
    read_cached,
    read_json,
    tensors,
)

Numbers = TypeVar("Numbers", bound=Mapping[str, Any])


class Header(TypedDict):
    """What a file of numbers says of itself."""

    figure: str
    identity: str
    base: str | None  # the hash of the weights of model=, where they are on disk


class PartFiles:
    """A hidden folder next to a figure, with a file of tensors for each part of its study.

    `out`: the figure; `identity`: of the study. The parts of another study are dropped. See
    `deme.analysis.Parts`.
    """

    def __init__(self, out: Path, identity: str) -> None:
        self.folder, self.identity = out.with_name(f".{out.stem}.parts"), identity
        self._is_ours = False

    def _claim(self) -> None:
        """Make the folder one of this study."""
        name = self.folder / "study.json"
        found = read_cached(name, Header)
        if found is None or found["identity"] != self.identity:
            if found is not None:
                logger.info("%s contains parts of another figure, which are deleted", self.folder)
            self.remove()
            files.write_json(name, {"figure": "", "identity": self.identity, "base": None})
        self._is_ours = True

    def __call__(
        self, name: str, measure: Callable[[], Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """Return the tensors of a part, measured unless its file is there. Raises NotFinite."""
        if not self._is_ours:
            self._claim()
        file = self.folder / f"{name}.safetensors"
        if file.is_file():
            with contextlib.suppress(DemeError):  # a damaged part is measured again
                return tensors.TensorFile(file).read_all()
        found = measure()
        for key, value in found.items():
            if not tensors.is_finite(value):
                raise NotFinite(
                    f"part {name} of the figure has NaN or infinite values ({key})\n"
                    "the weights, or the distances of the evaluated points, are too large"
                )
        tensors.save(file, found)
        return found

    def remove(self) -> None:
        """Delete the folder."""
        with disk_errors(self.folder), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.folder)


def check_numbers_file(file: Path) -> None:
    """Raise BadConfig for a file that would be replaced and holds no numbers of a figure."""
    if file.exists() and read_cached(file, Header) is None:
        raise BadConfig(
            f"{file} does not contain the numbers of a figure, and this figure would replace it\n"
            "type: out=<another file>, or move it away"
        )


def saved_numbers(file: Path, identity: str, kind: type[Numbers]) -> Numbers | None:
    """Return the numbers of a finished study, None unless the file is of `identity`."""
    header = read_cached(file, Header)
    if header is None or header["identity"] != identity:
        return None
    return read_json(file, kind)


def write_numbers(file: Path, header: Header, numbers: Mapping[str, Any]) -> None:
    """Write numbers as JSON, a key in each line. Raises NotFinite for NaN and infinity."""
    lines = []
    assert not header.keys() & numbers.keys()
    for key, value in {**header, **numbers}.items():
        try:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
        except ValueError as error:
            raise NotFinite(f"{key} of the figure has NaN or infinite values") from error
    files.write_text(file, "{\n" + ",\n".join(lines) + "\n}\n")
