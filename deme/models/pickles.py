"""Files that `torch.save` wrote, read without running any code that they hold."""

import warnings
import zipfile
from pathlib import Path
from pickle import UnpicklingError

import torch

from deme.system import MissingInput, WorkFailed

MARK = "WeightsUnpickler error:"  # before torch names what it refuses


def read_pickle(path: Path) -> object:
    """Return what the file holds; tensors stay on disk until they are used.

    Raises MissingInput, WorkFailed.
    """
    if not path.is_file():
        raise MissingInput(f"{path} does not exist")
    mapped = zipfile.is_zipfile(path)  # torch before 1.6 wrote other files
    try:
        with warnings.catch_warnings():
            # of unusual pickle protocols, just before they are refused
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except UnpicklingError as error:
        reason = str(error).partition(MARK)[2].strip().partition("\n")[0].split(". ")[0]
        raise WorkFailed(
            f"{path} holds more than tensors, which torch does not read safely: {reason}\n"
            "where you trust it, save its state dict alone, with torch.save or as .safetensors, "
            "and give that"
        ) from error
    except Exception as error:  # whatever a damaged file makes of the unpickler
        told = isinstance(error, RuntimeError)
        reason = str(error).partition(". ")[0] if told else type(error).__name__
        raise WorkFailed(
            f"{path} is damaged, or no file that torch.save wrote: {reason}\n"
            "make it again, or copy it again from where it came"
        ) from error
