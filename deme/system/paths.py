"""Where things are: locators of shipped files, of models on the Hugging Face Hub, the Hydra tree."""

import contextlib
from pathlib import Path
from typing import Protocol

from deme.system.errors import MissingInput, did_you_mean
from deme.system.files import is_weights

PACKAGE = Path(__file__).parents[1]
ASSET = "asset:"
HUB = "hub:"
DATASETS = "datasets:"  # a data set of the Hub: only deme.data fetches it
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
HUB_PICKLES = [
    "diffusion_pytorch_model*.bin",
    "unet/*.bin",
]  # only of a repository without safetensors


def conf_dir() -> Path:
    """Return the Hydra tree: deme/conf in a wheel, conf/ beside the package in a checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"


class _Paths(Protocol):
    @property
    def cache(self) -> str | None: ...


def cache_folder(paths: _Paths) -> Path:
    """Return the folder for what is kept by its content, from the `paths` group."""
    return Path(paths.cache or "~/.cache/deme").expanduser()


def locate(path: str) -> Path:
    """Return the place that `path` names. Raise MissingInput.

    "asset:NAME" names a file shipped with the package, "hub:OWNER/NAME" or "hub:OWNER/NAME@REVISION" a model on the Hugging Face
    Hub, downloaded unless it is in the Hub's cache: the only names that reach for the network.
    """
    if path.startswith(HUB):
        return _from_hub(path)
    if path.startswith(ASSET):
        place = PACKAGE / "assets" / path.removeprefix(ASSET)
        if not place.exists():
            names = [p.name for p in (PACKAGE / "assets").iterdir()]
            raise MissingInput(
                f"no shipped file {path!r}; {did_you_mean(place.name, names)}shipped: {', '.join(sorted(names))}"
            )
        return place
    place = Path(path).expanduser()
    if not place.exists():
        raise MissingInput(f"{path} does not exist (looked in {Path.cwd()})")
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
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MissingInput(
            f"{path} is not in the Hub's cache and cannot be downloaded: {reason}\n"
            f"where there is a network, type: hf download {name}; then copy the folder and give its path"
        ) from error


def _has_weights(place: Path) -> bool:
    return any(map(is_weights, place.rglob("*")))
