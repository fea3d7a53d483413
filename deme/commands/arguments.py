"""Arguments of commands: places, key=value, and the names of files to write."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from deme.runs import (
    ComputeSettings,
    Config,
    Run,
    RunSettings,
    build,
    check_finished,
    check_format,
    frozen_config,
    is_run,
)
from deme.system import DATASETS, HUB, BadConfig, locate, logger

T = TypeVar("T")


def places_and_values(args: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the arguments without "=", and the others as key -> value."""
    values = dict(arg.split("=", 1) for arg in args if "=" in arg)
    return [arg for arg in args if "=" not in arg], values


def without_paths(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments, and apart from them the overrides of the `paths` group.

    paths.runs= is the argument runs=.
    """
    args = [arg.removeprefix("paths.") if arg.startswith("paths.runs=") else arg for arg in args]
    paths = [arg for arg in args if arg.startswith("paths.")]
    return [arg for arg in args if arg not in paths], paths


def split_args(args: Sequence[str], kind: type[T], what: str, usage: str) -> tuple[str, T]:
    """Return the only argument without "=", which names `what`, and the others as settings.

    Raises BadConfig.
    """
    places, given = places_and_values(args)
    if len(places) != 1:
        raise BadConfig(f"one {what} is needed, got {len(places)}\ntype: {usage}")
    return places[0], build(kind, given, texts=True)


def log_without_effect(settings: RunSettings) -> None:
    """Log which of the typed settings have no effect."""
    if words := settings.without_effect():
        logger.info(
            "%s: no effect, as these metrics need no generated images; with others, such as "
            "metrics=own, they are generated",
            " ".join(words),
        )


def check_device(run: Run, compute: ComputeSettings) -> None:
    """Raise BadConfig for a device that does not exist, before the run directory is created.

    A CPU always exists; torch is not imported to check this.
    """
    if compute.accelerator != "cpu" and not run.done:
        from deme.builders import Compute

        Compute.of(compute)


def check_places(*options: Mapping[str, Any] | None) -> None:
    """Raise MissingInput for an option whose `path` does not exist on this machine.

    Names on the Hugging Face Hub are checked when they are downloaded.
    """
    for place in (option.get("path") for option in options if option):
        if isinstance(place, str) and not place.startswith((HUB, DATASETS)):
            locate(place)


def output_file(name: str, suffix: str) -> Path:
    """Return the path of a file to write. Raises BadConfig for another suffix."""
    path = Path(name)
    if path.suffix.lower() != suffix:
        raise BadConfig(f"out must name a {suffix} file, got {path}")
    return path


def evaluation_config(path: Path) -> Config:
    """Return the config of a finished evaluation. Raises BadConfig or MissingInput otherwise."""
    check_format(path)
    is_frozen = is_run(path) and (path / "config.yaml").is_file()
    config: Config = frozen_config(path) if is_frozen else {"stage": None}
    if config["stage"] != "evaluate":
        what = f"a run of deme {config['stage']}" if config["stage"] else "not a run directory"
        if not config["stage"] and (path / "config.yaml").is_file():
            what = "not a complete run directory: its status.json is missing"
        raise BadConfig(f"{path} is {what}\ntype: the directory of a deme evaluate run")
    check_finished(path)
    return config
