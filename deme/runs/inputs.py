"""What a run starts from: paths, run directories, or finished runs looked up by their cells."""

import contextlib
import functools
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deme.system import DATASETS, BadConfig, DemeError, MissingInput, WorkFailed, files, locate

QUERY_KEYS = {"stage", "cell", "command"}
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
Listed = tuple[str, int, int]  # name, size and time of a file


def read_status(path: Path) -> dict[str, Any]:
    """Return a run directory's status.json, or {}."""
    file = path / "status.json"
    return files.read_json(file) if file.exists() else {}


def is_run(path: Path) -> bool:
    """Whether `path` is a run directory."""
    return (path / "status.json").exists()


def is_older_format(path: Path) -> bool:
    """Whether `path` is a run directory of format 1, whose identity and labels differ."""
    config = path / "config.yaml"
    if not (is_run(path) and config.is_file()):
        return False
    with open(config) as file:
        return file.readline().startswith("# deme run ")


def check_format(path: Path) -> None:
    """Raise BadConfig for a run directory of format 1, with the command that makes it again."""
    if is_older_format(path):
        raise BadConfig(
            f"{path} has the format of an older version of deme, and this version cannot use it\n"
            f"type, to make it again: {command_of(path)}"
        )


def command_of(path: Path) -> str:
    """Return the command that made a run."""
    record = path / "run.json"
    command = files.read_json(record).get("command", []) if record.exists() else []
    return shlex.join(["deme", *command])


def check_finished(path: Path) -> None:
    """Raise MissingInput for a run that is not done, WorkFailed for one that lost its outputs."""
    status = read_status(path)
    if (state := status.get("state", "done")) != "done":
        raise MissingInput(f"{path} is not finished (state: {state})\nrun its command to resume")
    if damage := damaged(path, status):
        raise WorkFailed(f"{path} is damaged: {damage}\ntype, to make it again: {command_of(path)}")


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


def load_yaml(file: Path) -> Any:
    """Read a YAML file, by the C parser where there is one (five times faster)."""
    return yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def find(value: object, suite: Path) -> list[Path]:
    """Return the run directories or model folders that an input names.

    An input is a path, a list of paths, or {stage, cell}: the finished runs of the suite whose runs
    are in the folder `suite`. Raises MissingInput and BadConfig.
    """
    if value is None or value == []:
        return []
    if isinstance(value, Mapping) and {"stage", "cell"} <= value.keys() <= QUERY_KEYS:
        return _search(value, suite / value["stage"])
    if not isinstance(value, (str, list)):
        raise BadConfig(
            f"an input is a path, a list of paths, or {{stage: ..., cell: {{...}}}}; got {value!r}"
        )
    paths = [locate(str(item)) for item in ([value] if isinstance(value, str) else value)]
    for path in paths:
        check_format(path)
        check_finished(path)
    return paths


def _search(query: Mapping[str, Any], folder: Path) -> list[Path]:
    matches: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*/config.yaml")):
        if is_older_format(file.parent) or read_status(file.parent).get("state") != "done":
            continue
        cell = load_yaml(file)["cell"]
        if all(cell.get(key) == wanted for key, wanted in query["cell"].items()):
            check_finished(file.parent)
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
                f"{len(paths)} finished runs have {wanted}: "
                f"{', '.join(path.name for path in paths)}\n"
                "name the ones you mean: inputs.<name>=[<run directory>,...]"
            )
    return [paths[0] for paths in matches.values()]


def weights_folder(path: Path) -> Path:
    """Return the model folder of a finished run, or `path` itself if it is a model folder.

    Raises MissingInput for a run that is not finished, BadConfig for one without weights or of the
    older format.
    """
    if not is_run(path):
        return path
    check_format(path)
    check_finished(path)
    folder = min((path / "weights").glob("[!.]*"), default=None)
    if folder is None:
        raise BadConfig(f"{path} has no weights; give the directory of a train or merge run")
    return folder


def found_weights(search: Path) -> dict[str, Any]:
    """Return what a finished run of `deme search` found. Raises BadConfig for anything else.

    It has `weights` and `weights_by_name`, and the `merge` and the `models` that they are of.
    """
    file = search / "best.json"
    if not file.is_file():
        raise BadConfig(
            f"{search} is no run of deme search; inputs.search takes the directory of one"
        )
    found = {"weights_by_name": {}, **files.read_json(file)}
    return {**found, "weights": [float(w) for w in found["weights"]]}


def input_hash(name: str, path: Path) -> str:
    """Return the hash of a run's input: of images that are measured, that of every byte."""
    return files.sha256(path) if name == "images" else content_hash(path)


def content_hash(place: str | Path) -> str:
    """Return a hash of what a path or locator names.

    It is the recorded hash of a finished run's weights, else that of the bytes of a file, a model
    folder or a data folder. Of a data set on the Hub it is that of the name and the revision.
    """
    if str(place).startswith(DATASETS):
        return files.sha256_text(str(place))
    path = locate(str(place))
    if is_run(path):
        weights = read_status(path).get("weights")
        if weights:
            return str(next(iter(weights.values())))
        result = path / "best.json"
        return files.sha256(result) if result.exists() else files.sha256_text(path.name)
    if not path.is_dir():
        return _sha256(path, (_listed("", path),))
    inside = tuple(
        _listed(p.relative_to(path).as_posix(), p) for p in sorted(path.rglob("*")) if p.is_file()
    )
    configs = [path / "config.json", path / "unet" / "config.json"]  # of a model, in any format
    is_model = any(path.rglob("*.safetensors")) or any(config.exists() for config in configs)
    return _sha256(path, inside) if is_model else _folder_hash(path, inside)


def _listed(name: str, file: Path) -> Listed:
    stat = file.stat()
    return name, stat.st_size, stat.st_mtime_ns


@functools.cache
def _sha256(path: Path, unchanged: tuple[Listed, ...]) -> str:  # noqa: ARG001
    """Return the hash of a file or folder, computed once a process until a size or time changes."""
    return files.sha256(path)


def _folder_hash(folder: Path, inside: tuple[Listed, ...]) -> str:
    """Return the hash of a data folder's files; cached until a name, a size or a time changes."""
    name = str(folder.resolve())
    listing = files.sha256_text("\n".join(" ".join(map(str, listed)) for listed in inside))
    place = cached("folders", name)
    with contextlib.suppress(OSError, DemeError):
        known = files.read_json(place)
        if known["listing"] == listing:
            return str(known["sha256"])
    lines = "".join(f"{name} {files.sha256(folder / name)}\n" for name, _, _ in inside)
    digest = files.sha256_text(lines)
    with contextlib.suppress(DemeError):
        files.write_json(place, {"folder": name, "listing": listing, "sha256": digest})
    return digest


def cached(kind: str, key: str) -> Path:
    """Return the file of the user's cache for what is found again by `key`."""
    cache = Path(os.environ.get("DEME_CACHE", "~/.cache/deme")).expanduser()
    return cache / kind / f"{files.sha256_text(key)[:32]}.json"
