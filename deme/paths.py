"""Where things are: locators of shipped files, the Hydra tree. Standard library only."""

from pathlib import Path

from deme.errors import MissingInput, did_you_mean

PACKAGE = Path(__file__).parent
ASSET = "asset:"


def conf_dir() -> Path:
    """Return the Hydra tree: deme/conf in a wheel, conf/ beside the package in a checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"


def locate(path: str) -> Path:
    """Return the place that `path` names; "asset:NAME" names a file shipped with the package. Raise MissingInput."""
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
