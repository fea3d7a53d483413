"""What a run starts from: paths, run directories, or finished runs looked up by their cells."""

import contextlib
import functools
import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from deme.runs.formats import Frozen
from deme.runs.run_files import command_of, damaged, is_run, read_status
from deme.runs.settings import Config, RunSettings, run_settings
from deme.system import (
    DATASETS,
    EMA_WEIGHTS,
    FILE_NAME_RULE,
    RAW_WEIGHTS,
    SNAPSHOTS,
    BadConfig,
    DemeError,
    MissingInput,
    WorkFailed,
    expanded,
    files,
    first_line,
    is_file_name,
    list_files,
    locate,
    logger,
    read_cached,
    read_yaml,
    shown,
)
from deme.system.values import MAKE_AGAIN

QUERY_KEYS = {"stage", "cell", "command"}
# labels that describe a run; of runs that differ only in these, the user has to name one
DESCRIBED = OF, SET = ("of", "settings")
FileStamp = tuple[str, int, int]  # name, size and time of a file


def is_older_format(path: Path) -> bool:
    """Whether `path` is a run directory of format 1, whose identity and labels differ."""
    config = path / "config.yaml"
    if not (is_run(path) and config.is_file()):
        return False
    with open(config, "rb") as file:
        return file.readline(100).startswith(b"# deme run ")


def check_format(path: Path) -> None:
    """Raise BadConfig for a run directory of format 1, with the command that makes it again."""
    if is_older_format(path):
        raise BadConfig(
            f"{path} has the format of an older version of deme, and this version cannot use it\n"
            f"{how_to_make_again(path)}"
        )


def how_to_make_again(path: Path) -> str:
    """Return "type, in <folder>, to make it again: <command>" with the command as it was typed."""
    made = command_of(path)
    folder = made.get("directory", "")
    place = f", in {folder}," if folder not in ("", str(Path.cwd())) else ","
    return f"type{place} to make it again: {shlex.join(['deme', *made.get('command', [])])}"


def check_finished(path: Path) -> None:
    """Raise MissingInput for a run that is not done, WorkFailed for one that lost its outputs."""
    status = read_status(path)
    if (state := status.get("state", "done")) != "done":
        raise MissingInput(f"{path} is not finished (state: {state})\nrun its command to resume")
    if damage := damaged(path, status):
        raise WorkFailed(f"{path} is damaged: {damage}\n{how_to_make_again(path)}")


def frozen_config(run: Path) -> Config:
    """Return the config that a run was made with."""
    return dict(read_yaml(run / "config.yaml", Frozen))


def frozen_settings(run: Path) -> RunSettings:
    """Return the settings that a run was made with. Raises WorkFailed for none."""
    try:
        return run_settings(frozen_config(run))
    except BadConfig as error:
        raise WorkFailed(
            f"{run / 'config.yaml'} is damaged: {first_line(error)}\n{MAKE_AGAIN}"
        ) from error


def find(value: object, suite: Path) -> list[Path]:
    """Return the run directories or model folders that an input names.

    An input is a path, a list of paths, or {stage, cell}: the finished runs of the suite whose runs
    are in the folder `suite`. Raises MissingInput and BadConfig.
    """
    if value is None or value == []:
        return []
    if _is_query(value):
        stage = value["stage"]
        if not is_file_name(stage):
            raise BadConfig(f"the stage of an input must be {FILE_NAME_RULE}; got {shown(stage)}")
        return _search(value, suite / stage)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise BadConfig(
            f"an input is a path, a list of paths, or {{stage: ..., cell: {{...}}}}; got {value!r}"
        )
    paths = [locate(name) for name in names]
    if len({path.resolve() for path in paths}) < len(paths):
        raise BadConfig(f"the same model is given twice: {', '.join(names)}\ntype each once")
    for path in paths:
        check_format(path)
        check_finished(path)
    return paths


def _is_query(value: object) -> TypeGuard[Mapping[str, Any]]:
    return (
        isinstance(value, Mapping)
        and {"stage", "cell"} <= value.keys() <= QUERY_KEYS
        and isinstance(value["stage"], str)
        and isinstance(value["cell"], Mapping)
    )


def _search(query: Mapping[str, Any], folder: Path) -> list[Path]:
    matches: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*/config.yaml")):
        try:
            if is_older_format(file.parent) or read_status(file.parent).get("state") != "done":
                continue
            cell = frozen_config(file.parent)["cell"]
        except DemeError as error:  # a run that may not be meant
            logger.warning("left out: %s", first_line(error))
            continue
        if all(cell.get(key) == wanted for key, wanted in query["cell"].items()):
            check_finished(file.parent)
            labels = {key: text for key, text in cell.items() if key not in DESCRIBED}
            matches.setdefault(json.dumps(labels, sort_keys=True), []).append(file.parent)
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


def weights_name(path: Path, names: Iterable[str], wanted: str) -> str:
    """Return which of the folders `names` below weights/ of a run holds the `wanted` weights.

    These are ema (raw where there is no average), raw or snapshots; a merge and an average have one
    model, whatever is wanted. Raises BadConfig if it is not there.
    """
    known = sorted(names)
    models = [name for name in known if name != SNAPSHOTS]
    only = [name for name in models if name not in (EMA_WEIGHTS, RAW_WEIGHTS)]
    for name in (SNAPSHOTS,) if wanted == SNAPSHOTS else (wanted, *only):
        if name in known:
            return name
    if wanted == EMA_WEIGHTS and models:
        return models[0]
    if wanted == SNAPSHOTS or not models:
        what, advice = {
            SNAPSHOTS: ("no snapshots", "make one that keeps some: deme train snapshots.every=<n>")
        }.get(wanted, ("no weights", "give the directory of a train, merge or average run"))
        raise BadConfig(f"{path} has {what}\n{advice}")
    raise BadConfig(
        f"{path} has no raw weights, only their average: it was made with export=[ema], or by a "
        "version that kept nothing else\ntype: run_weights=ema\n"
        f"where raw weights are needed, delete that run, then {how_to_make_again(path)}"
    )


def input_hash(name: str, path: Path, weights: str = EMA_WEIGHTS) -> str:
    """Return the hash of a run's input: of images that are measured, that of every byte."""
    if name == "images" and path.is_dir():
        return _hash_of(path, list_files(path).files)
    return content_hash(path, weights)


def content_hash(place: str | Path, weights: str = EMA_WEIGHTS) -> str:
    """Return a hash of what a path or locator names.

    It is the recorded hash of a finished run's `weights` (ema, raw or snapshots), else that of the
    bytes of a file, a model folder or a data folder; of the last the files that `list_files` lists.
    Of a data set on the Hub it is that of the name and the revision. Raises MissingInput for what
    cannot be read, BadConfig for weights that the run does not have.
    """
    if str(place).startswith(DATASETS):
        return files.sha256_text(str(place))
    path = locate(str(place))
    if not (path.is_file() or path.is_dir()):  # a device or a pipe may never end
        raise MissingInput(f"{path} is neither a file nor a folder")
    try:
        return _content_hash(path, weights)
    except OSError as error:
        reason = error.strerror or error
        raise MissingInput(f"{error.filename or path} cannot be read: {reason}") from error


def _content_hash(path: Path, weights: str) -> str:
    if is_run(path):
        if recorded := read_status(path).get("weights"):
            return recorded[weights_name(path, recorded, weights)]
        result = path / "best.json"
        return files.sha256(result) if result.exists() else files.sha256_text(path.name)
    if not path.is_dir():
        return _sha256(path, (_stamp("", path),))
    inside = tuple(_stamp(p.relative_to(path).as_posix(), p) for p in list_files(path).files)
    configs = [path / "config.json", path / "unet" / "config.json"]  # of a model, in any format
    is_model = any(path.rglob("*.safetensors")) or any(config.exists() for config in configs)
    linked = any(p.is_symlink() and p.is_dir() for p in path.rglob("*"))  # sha256 follows no links
    return _sha256(path, inside) if is_model and not linked else _folder_hash(path, inside)


def takes_ema(model: Mapping[str, object]) -> bool:
    """Whether a `model` option loads the averaged weights of unet_ema/."""
    return model.get("ema") is True


def base_hash(model: Mapping[str, object], place: str | Path) -> str:
    """Return the hash of the weights of a `model` option, which are at `place`."""
    found = content_hash(place)
    return files.sha256_text(f"{found} ema") if takes_ema(model) else found


def _stamp(name: str, file: Path) -> FileStamp:
    stat = file.stat()
    return name, stat.st_size, stat.st_mtime_ns


@functools.cache
def _sha256(path: Path, unchanged: tuple[FileStamp, ...]) -> str:  # noqa: ARG001
    """Return the hash of a file or folder, cached in this process until a size or time changes."""
    return files.sha256(path)


def _folder_hash(folder: Path, inside: tuple[FileStamp, ...]) -> str:
    """Return the hash of a data folder's files, cached until a name, size or time changes."""
    name = str(folder.resolve())
    listing = files.sha256_text("\n".join(" ".join(map(str, stamp)) for stamp in inside))
    place = cached("folders", name)
    known = read_cached(place, dict[str, str]) or {}
    if known.get("listing") == listing and "sha256" in known:
        return known["sha256"]
    digest = _hash_of(folder, [folder / name for name, _, _ in inside])
    with contextlib.suppress(DemeError):
        files.write_json(place, {"folder": name, "listing": listing, "sha256": digest})
    return digest


def _hash_of(folder: Path, inside: Sequence[Path]) -> str:
    """Return the hash of the names and bytes of a folder's files."""
    return files.sha256_text(
        "".join(f"{file.relative_to(folder).as_posix()} {files.sha256(file)}\n" for file in inside)
    )


def cached(kind: str, key: str) -> Path:
    """Return the file of the user's cache for what is found again by `key`."""
    cache = expanded(os.environ.get("DEME_CACHE", "~/.cache/deme"))
    return cache / kind / f"{files.sha256_text(key)[:32]}.json"
