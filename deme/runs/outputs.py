"""The files that make a run a finished one, and whether they are all there."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# folders and files of a run that it may lose, or that change after it is done
NO_OUTPUTS = {
    "samples",
    "checkpoints",
    "tracking",
    "wandb",
    "config.yaml",
    "log.txt",
    "run.json",
    "speed.jsonl",
    "status.json",
}


def outputs_of(path: Path) -> dict[str, int]:
    """Return the files that make a run a finished one: name -> size in bytes.

    Left out are pictures of samples, checkpoints and logs.
    """
    found = {}
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in NO_OUTPUTS)
        for file in (Path(folder, name) for name in sorted(names)):
            if file.name[0] != "." and file.name not in NO_OUTPUTS:
                found[file.relative_to(path).as_posix()] = file.stat().st_size
    return found


def damages(path: Path, status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each output of a finished run that is not as it was recorded, and what is wrong.

    Names and sizes are compared, not contents. Runs of earlier versions have recorded none.
    """
    for name, size in status.get("outputs", {}).items():
        try:
            found = (path / name).stat().st_size
        except (OSError, ValueError):  # too long, a null byte
            yield name, f"{name} is missing"
        else:
            if found != size:
                yield name, f"{name} has {found:,} bytes instead of {size:,}"


def damaged(path: Path, status: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the first output that is not as recorded, None if all are there."""
    return next((what for _, what in damages(path, status)), None)
