"""Files that `torch.save` wrote, read without running any code that they hold."""

import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from deme.system import MissingInput, WorkFailed

MARK = "WeightsUnpickler error:"  # before torch names what it refuses


def read_pickle(path: Path) -> Any:
    """Return what the file holds; tensors stay on disk until they are used. Raises MissingInput,
    WorkFailed."""
    if not path.is_file():
        raise MissingInput(f"{path} does not exist")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of unusual pickle protocols, just before they are refused
            return _read(path)
    except UnpicklingError as error:
        reason = next(
            (line for line in str(error).partition(MARK)[2].splitlines() if line.strip()), ""
        )
        raise WorkFailed(
            f"{path} holds more than tensors, which torch does not read safely: {reason.strip().split('. ')[0]}\n"
            "where you trust it, save its state dict alone, with torch.save or as .safetensors, and give that"
        ) from error
    except Exception as error:  # whatever a damaged file makes of the unpickler
        reason = (
            str(error).partition(". ")[0]
            if isinstance(error, RuntimeError)
            else type(error).__name__
        )
        raise WorkFailed(
            f"{path} is damaged, or no file that torch.save wrote: {reason}\n"
            "make it again, or copy it again from where it came"
        ) from error


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
        return torch.load(
            path, map_location="cpu", weights_only=True
        )  # as torch before 1.6 wrote it
