"""The files that make a run a finished one, and whether they are all there."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# folders and files of a run that it may lose, or that change after it is done
NO_OUTPUTS = {
    "samples",
    "checkpoints",
    "wandb",
    "config.yaml",
    "log.txt",
    "run.json",
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


def damaged(path: Path, status: Mapping[str, Any]) -> str | None:
    """Return which output of a finished run is not as it was recorded, None if all are there.

    Names and sizes are compared, not contents. Runs of earlier versions have recorded none.
    """
    for name, size in status.get("outputs", {}).items():
        try:
            found = (path / name).stat().st_size
        except OSError:
            return f"{name} is missing"
        if found != size:
            return f"{name} has {found:,} bytes instead of {size:,}"
    return None
