"""What a run starts from: paths, run directories, or finished runs looked up by what they are called. No torch here."""

import contextlib
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deme.system import files
from deme.system.errors import BadConfig, DemeError, MissingInput
from deme.system.paths import DATASETS, locate


def read_status(path: Path) -> dict[str, Any]:
    """Return a run directory's status.json, or {}."""
    file = path / "status.json"
    return files.read_json(file) if file.exists() else {}


def is_run(path: Path) -> bool:
    """Whether `path` is a run directory."""
    return (path / "status.json").exists()


def is_older_format(path: Path) -> bool:
    """Whether `path` is a run directory that a version before format 2 made: its identity and labels mean something else."""
    config = path / "config.yaml"
    if not (is_run(path) and config.is_file()):
        return False
    with open(config) as file:
        return file.readline().startswith("# deme run ")


def check_format(path: Path) -> None:
    """Raise BadConfig for a run directory of an older format, with the command that makes it again."""
    if is_older_format(path):
        command = (
            files.read_json(path / "run.json").get("command", [])
            if (path / "run.json").exists()
            else []
        )
        again = f"deme {shlex.join(command)}" if command else "the command that made it"
        raise BadConfig(
            f"{path} was made by an older version of deme, whose run directories have another format\n"
            f"type, to make it again: {again}"
        )


def load_yaml(file: Path) -> Any:
    """Read a YAML file, by the C parser where there is one (five times faster)."""
    return yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def find(value: Any, config: Mapping[str, Any]) -> list[Path]:
    """Return the run directories or model folders that an input names: a path, a list of paths, or {stage, cell}."""
    if value is None or value == []:
        return []
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        paths = [locate(str(item)) for item in value]
        for path in paths:
            check_format(path)
            if is_run(path) and read_status(path)["state"] != "done":
                raise MissingInput(
                    f"{path} is not finished (state: {read_status(path)['state']}); run its command again first"
                )
        return paths
    if not isinstance(value, Mapping):
        raise BadConfig(
            f"an input is a path, a list of paths, or {{stage: ..., cell: {{...}}}}; got {value!r}"
        )
    return _search(value, config)


def _search(query: Mapping[str, Any], config: Mapping[str, Any]) -> list[Path]:
    unknown = query.keys() - {"stage", "cell", "command"}
    if unknown or "stage" not in query or "cell" not in query:
        raise BadConfig(
            f"an input is a path, a list of paths, or {{stage: ..., cell: {{...}}}}; got {dict(query)}"
        )
    folder = Path(config["paths"]["runs"], config["suite"], query["stage"])
    matches: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*/config.yaml")):
        if is_older_format(file.parent):
            continue
        cell = load_yaml(file)["cell"]
        if read_status(file.parent).get("state") == "done" and all(
            cell.get(k) == v for k, v in query["cell"].items()
        ):
            matches.setdefault(json.dumps(cell, sort_keys=True), []).append(file.parent)
    wanted = ", ".join(f"{k}={v}" for k, v in query["cell"].items())
    if not matches:
        command = query.get("command", f"deme {query['stage']} ...")
        raise MissingInput(
            f"no finished {query['stage']} run with {wanted} in {folder}\nmake it with: {command}"
        )
    for paths in matches.values():
        if len(paths) > 1:
            raise BadConfig(
                f"{len(paths)} finished runs are called {wanted}: {', '.join(p.name for p in paths)}\n"
                "name the ones you mean: inputs.<name>=[<run directory>,...]"
            )
    return [paths[0] for paths in matches.values()]


def weights_folder(path: Path) -> Path:
    """Return the model folder of a finished run, or `path` itself if it is a model folder. Raises MissingInput."""
    if not is_run(path):
        return path
    folders = sorted((path / "weights").glob("[!.]*"))
    if read_status(path).get("state") == "done" and not folders:
        raise BadConfig(f"{path} has no weights; give the directory of a train or merge run")
    if read_status(path).get("state") != "done" or not folders:
        raise MissingInput(
            f"{path} is not finished (state: {read_status(path).get('state')}); run its command again first"
        )
    return folders[0]


def found_weights(search: Path) -> dict[str, Any]:
    """Return what a finished run of `deme search` found: `weights`, `weights_by_name`, the `merge` and `models` they are of.

    Raises BadConfig for anything else.
    """
    file = search / "best.json"
    if not file.is_file():
        raise BadConfig(
            f"{search} is no run of deme search; inputs.search takes the directory of one"
        )
    found: dict[str, Any] = files.read_json(file)
    return {
        **found,
        "weights": [float(w) for w in found["weights"]],
        "weights_by_name": found.get("weights_by_name", {}),
    }


def input_hash(name: str, path: Path) -> str:
    """Return the hash of a run's input: `content_hash`, but every byte of images that are measured."""
    return files.sha256(path) if name == "images" else content_hash(path)


def content_hash(place: str | Path) -> str:
    """Return a hash of a locator's content: a finished run's recorded weights, a model folder's or file's bytes, or a
    data folder's. A data set of the Hub is what its name and revision say."""
    if str(place).startswith(DATASETS):
        return files.sha256_text(str(place))
    path = locate(str(place))
    if is_run(path):
        weights = read_status(path).get("weights")
        if weights:
            return str(next(iter(weights.values())))
        result = path / "best.json"
        return files.sha256(result) if result.exists() else files.sha256_text(path.name)
    configs = (
        path / "config.json",
        path / "unet" / "config.json",
    )  # a model's, whose weights may be pickles
    if (
        path.is_dir()
        and not any(path.rglob("*.safetensors"))
        and not any(config.exists() for config in configs)
    ):
        return _folder_hash(path)
    return files.sha256(path)


def _folder_hash(folder: Path) -> str:
    """Return the hash of a data folder's files, remembered in the cache until a name, a size or a time changes."""
    stats = [
        (p.relative_to(folder).as_posix(), p.stat())
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    ]
    listing = files.sha256_text(
        "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
    )
    cache = Path(os.environ.get("DEME_CACHE", "~/.cache/deme")).expanduser() / "folders"
    place = cache / f"{files.sha256_text(str(folder.resolve()))[:32]}.json"
    with contextlib.suppress(OSError, DemeError):
        known = files.read_json(place)
        if known["listing"] == listing:
            return str(known["sha256"])
    found = files.sha256_text(
        "".join(f"{name} {files.sha256(folder / name)}\n" for name, _ in stats)
    )
    with contextlib.suppress(DemeError):
        files.write_json(
            place, {"folder": str(folder.resolve()), "listing": listing, "sha256": found}
        )
    return found
