"""Locators of shipped files and of models on the Hugging Face Hub; the folders of the package."""

import contextlib
import os
import re
from pathlib import Path
from typing import Protocol

from deme.system.disk import expanded
from deme.system.errors import BadConfig, MissingInput, did_you_mean, first_line
from deme.system.files import is_weights

PACKAGE = Path(__file__).parents[1]
ASSET = "asset:"
HUB = "hub:"
DATASETS = "datasets:"  # a data set on the Hub, which only deme.data downloads
EMA_WEIGHTS, RAW_WEIGHTS = "ema", "raw"  # folders below weights/ of a training run
SNAPSHOTS = "snapshots"  # the folder below weights/ with those of earlier steps
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
HUB_PICKLES = ["diffusion_pytorch_model*.bin", "unet/*.bin"]  # where there are no safetensors

FILE_NAME = re.compile(r"\w[\w.+-]*")
MAX_NAME_BYTES = 100
FILE_NAME_RULE = (
    f"a name of at most {MAX_NAME_BYTES} letters, digits and _ . + - that does not begin with "
    ". + or -"
)


def is_file_name(text: str) -> bool:
    """Whether a text may name a file or a folder (FILE_NAME_RULE): never a place elsewhere."""
    return FILE_NAME.fullmatch(text) is not None and len(text.encode()) <= MAX_NAME_BYTES


def below(root: Path, place: str) -> Path:
    """Return the place in the folder `root` that another person's file names. Raises BadConfig.

    Links are not followed: what lies in the folder is its owner's.
    """
    found = Path(os.path.normpath(root.absolute() / place))
    if not any(found.is_relative_to(folder) for folder in (root.absolute(), root.resolve())):
        raise BadConfig(f"{place!r:.200} does not lie in {root}")
    return root / place


def model_folders(run: Path) -> list[Path]:
    """Return the model folders below weights/ of a run: ema before raw, snapshots left out."""
    return sorted(place for place in (run / "weights").glob("[!.]*") if place.name != SNAPSHOTS)


def conf_dir() -> Path:
    """Return the folder of the configuration: deme/conf in a wheel, conf/ in a checkout."""
    return _shipped("conf")


def locate_suite(path: Path) -> Path:
    """Return a suite's folder or file: the one at `path`, else the shipped one of that name.

    The shipped suites are deme/experiments in a wheel, so that `experiments/digits` means the same
    in a checkout and in an empty directory.
    """
    shipped = _shipped("experiments").parent / path
    return path if path.exists() or not shipped.exists() else shipped


def _shipped(name: str) -> Path:
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / name


class _Paths(Protocol):
    @property
    def cache(self) -> str | None: ...


def cache_folder(paths: _Paths) -> Path:
    """Return the folder for what is kept by its content, from the `paths` group."""
    return expanded(paths.cache or "~/.cache/deme")


def locate(path: str) -> Path:
    """Return the file or folder that `path` names. Raises MissingInput.

    "asset:NAME" is a file shipped with the package. "hub:OWNER/NAME" or "hub:OWNER/NAME@REVISION"
    is a model on the Hugging Face Hub, downloaded unless it is in the Hub's cache: only such names
    use the network.
    """
    if path.startswith(HUB):
        return _from_hub(path)
    if path.startswith(ASSET):
        place = below(PACKAGE / "assets", path.removeprefix(ASSET))
        if not place.exists():
            root = PACKAGE / "assets"
            found = [*root.rglob("model_index.json"), *root.glob("*.safetensors")]
            names = [
                (p if p.suffix == ".safetensors" else p.parent).relative_to(root).as_posix()
                for p in found
            ]
            raise MissingInput(
                f"no shipped file {path!r}; {did_you_mean(path.removeprefix(ASSET), names)}"
                f"shipped: {', '.join(sorted(names))}"
            )
        return place
    try:
        place = Path(path).expanduser()
        exists = place.exists()
        if "\0" in path:
            raise ValueError("it has a null byte")
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, no such user
        raise MissingInput(f"{path!r:.200} cannot be a path: {first_line(error)}") from error
    if not exists:
        inside = place.parent.iterdir() if place.parent.is_dir() else ()
        near = did_you_mean(place.name, [each.name for each in inside])
        raise MissingInput(f"{path} does not exist (looked in {Path.cwd()}); {near}".rstrip("; "))
    return place


def _from_hub(path: str) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = path.removeprefix(HUB).partition("@")

    def snapshot(patterns: list[str], local_files_only: bool) -> Path:
        return Path(
            snapshot_download(
                name,
                revision=revision or None,
                allow_patterns=patterns,
                local_files_only=local_files_only,
            )
        )

    with contextlib.suppress(Exception):  # not in the cache
        place = snapshot(HUB_FILES, local_files_only=True)
        if _has_weights(place):
            return place
    try:
        place = snapshot(HUB_FILES, local_files_only=False)
        return (
            place
            if _has_weights(place)
            else snapshot([*HUB_FILES, *HUB_PICKLES], local_files_only=False)
        )
    except Exception as error:
        raise MissingInput(
            f"{path} is not in the Hub's cache and cannot be downloaded: {first_line(error)}\n"
            f"where there is a network, type: hf download {name}\n"
            "then copy the folder and give its path"
        ) from error


def _has_weights(place: Path) -> bool:
    return any(map(is_weights, place.rglob("*")))
