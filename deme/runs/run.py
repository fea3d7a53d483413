"""Run directories: identity, state and provenance (DESIGN 7). No torch here."""

import contextlib
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from deme.system import files
from deme.runs.checks import check_values
from deme.system.errors import BadConfig, DemeError, Stopped, WorkFailed, out_of_memory
from deme.runs.inputs import content_hash, find, input_hash, is_run, read_status, weights_folder
from deme.system.paths import PACKAGE

# These change no result, so they do not take part in a run's identity.
NOT_IDENTITY = ("paths", "logger", "progress", "passport", "suite", "cell", "inputs", "out", "plan", "report", "slices")
NOT_IDENTITY_IN_GROUP = {"data": ("root", "download", "in_memory")}  # nor do these: where data lies and how it is read
HASHED_PATH_KEYS = ("path", "captions", "parts")  # keys of files and folders: what is in them counts, not what they are called
LIBRARIES = (
    "torch",
    "pytorch-lightning",
    "diffusers",
    "hydra-core",
    "omegaconf",
    "safetensors",
    "numpy",
    "scikit-learn",
    "pillow",
    "torch-fidelity",
    "prdc",
)


@dataclass(frozen=True)
class Run:
    """A run directory, existing or planned. Of several processes that train it together, one calls it `mine` and writes."""

    path: Path
    identity: str
    config: dict[str, Any] = field(repr=False)
    inputs: dict[str, list[Path]] = field(repr=False)
    hashes: dict[str, list[str]] = field(repr=False)
    is_main_process: bool = True

    @classmethod
    def planned(cls, config: dict[str, Any]) -> "Run":
        """Return the run of a resolved config: find and hash its inputs, derive its id. Raises MissingInput, BadConfig."""
        check_values(config)
        found = {name: find(value, config) for name, value in config["inputs"].items()}
        hashes = {name: [input_hash(name, path) for path in paths] for name, paths in found.items() if paths}
        identity = identity_hash(config, hashes)
        folder = Path(config["paths"]["runs"], config["suite"], config["stage"], f"{slug(config)}-{identity[:10]}")
        return cls(folder, identity, config, found, hashes)

    @property
    def status(self) -> dict[str, Any]:
        """status.json, or {} for a run that never started."""
        return read_status(self.path)

    @property
    def done(self) -> bool:
        """Whether the run finished. Raises BadConfig if its directory holds another config."""
        self._check_frozen_config()
        return self.status.get("state") == "done"

    def _check_frozen_config(self) -> None:
        """The first line of config.yaml names the identity of the run and the hash of the rest of the file."""
        file = self.path / "config.yaml"
        if file.exists():
            head, _, body = file.read_text().partition("\n")
            if head != _header(self.identity, body):
                raise BadConfig(
                    f"{self.path} holds the run of another config (its config.yaml was edited or copied)\n"
                    "move it away, or choose another place: paths.runs=<dir>"
                )

    def execute(self, work: Callable[["Run"], None], helper: Callable[["Run"], None] | None = None) -> Path:
        """Do the run's work, unless it is done; return the run directory.

        If another process is doing it: do `meanwhile`, if given, then wait for the other.
        """
        if self.done:
            say(f"done already: {self.path}")
        else:
            with self.acquire(helper) as open_work:
                if open_work:
                    work(self)
                else:
                    say(f"done by the other process: {self.path}")
        return self.path

    @contextlib.contextmanager
    def acquire(self, helper: Callable[["Run"], None] | None = None) -> Iterator[bool]:
        """Own the run for the block, waiting for another process that does; yield whether work is left to do.

        The state is `running` in the block; after it `done`, or `preempted` or `failed` with the error.
        """

        def waiting(owner: str) -> None:
            say(f"{owner} is working on {self.path}; {'working with it' if helper else 'waiting for it'}")
            if helper is not None:
                helper(self)

        with files.locked(self.path / ".lock", waiting):
            if self.done:
                yield False
                return
            body = yaml.safe_dump(self.config, sort_keys=False)
            files.write_text(self.path / "config.yaml", f"{_header(self.identity, body)}\n{body}")
            files.write_json(self.path / "run.json", provenance(self))
            before, began = read_status(self.path).get("seconds", 0.0), time.monotonic()

            def seconds() -> float:  # in all sittings, but for one that was killed
                return round(before + time.monotonic() - began, 1)

            self.write_status("running", seconds=before)
            try:
                self._verify_inputs()
                with self._warnings_logged():
                    yield True
            except BaseException as error:
                told = WorkFailed(_need_less_memory(self.config)) if out_of_memory(error) else error
                with contextlib.suppress(DemeError):
                    stopped = isinstance(error, (Stopped, KeyboardInterrupt))
                    self.write_status("preempted" if stopped else "failed", error=str(told), seconds=seconds())
                if told is error:
                    raise
                raise told from error
            spent = seconds()
            weights = {p.name: files.sha256(p) for p in sorted((self.path / "weights").glob("[!.]*"))}
            self.write_status("done", weights=weights, seconds=spent)

    @contextlib.contextmanager
    def _warnings_logged(self) -> Iterator[None]:
        """Warnings of the library's loggers go to log.txt, too."""
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: self.log(f"warning: {record.getMessage()}")  # type: ignore[method-assign]
        logging.getLogger("deme").addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger("deme").removeHandler(handler)

    def write_status(self, state: str, **more: Any) -> None:
        """Replace status.json."""
        files.write_json(self.path / "status.json", {"state": state, "pid": os.getpid(), "time": time.time(), **more})

    def _verify_inputs(self) -> None:
        model = (self.config.get("model") or {}).get("path")
        if isinstance(model, str) and ":" not in model and is_run(Path(model)):
            self._verify_weights(Path(model), content_hash(model))
        for name, paths in self.inputs.items():
            for path, recorded in zip(paths, self.hashes.get(name, []), strict=True):
                if is_run(path) and (path / "weights").is_dir():
                    self._verify_weights(path, recorded)

    def _verify_weights(self, path: Path, recorded: str) -> None:
        if files.sha256(weights_folder(path)) != recorded:
            raise WorkFailed(
                f"the weights of {path} changed after that run finished\ndelete that run directory and make it again"
            )

    def single_input(self, name: str) -> Path | None:
        """Return the single input `name`, or None if it was not given."""
        paths = self.inputs.get(name) or []
        if len(paths) > 1:
            raise BadConfig(
                f"inputs.{name} takes one run, found {len(paths)}: {', '.join(p.name for p in paths)}\n"
                f"name the one you mean: inputs.{name}=<run directory>"
            )
        return paths[0] if paths else None

    def write_once(self, name: str, make: Callable[[], None]) -> None:
        """Let `make` write the file `name` of a finished run, unless it is there; two processes do not make it twice."""
        waiting = f"making {name} of {self.path.name}; waiting for it"
        with files.locked(self.path / f".{name}.lock", lambda owner: say(f"{owner} is {waiting}")):
            if not (self.path / name).exists():
                make()

    def log(self, text: str) -> None:
        """Print a line and keep it in log.txt."""
        if not self.is_main_process:
            return
        say(text)
        files.append_line(self.path / "log.txt", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")


def say(text: str) -> None:
    """Print a line to standard output at once."""
    print(text, flush=True)


def _header(identity: str, body: str) -> str:
    return f"# deme run {identity}, frozen as {files.sha256_text(body)}"


def config_unmodified(file: Path) -> bool:
    """Whether a frozen config.yaml is as its first line says, which names the hash of the rest."""
    head, _, body = file.read_text().partition("\n")
    return head.startswith("# deme run ") and head.endswith(f", frozen as {files.sha256_text(body)}")


def recorded_identity(file: Path) -> str:
    """Return the identity that a frozen config.yaml names."""
    return file.read_text().partition("\n")[0].removeprefix("# deme run ").partition(",")[0]


def slug(config: Mapping[str, Any]) -> str:
    """Return the readable part of a run id."""
    cell = config["cell"]
    parts = [str(cell.get("method", config["stage"]))]
    for key, letter in (("expert", "e"), ("seed", "s"), ("sample_seed", "n")):
        if cell.get(key) is not None:
            parts.append(f"{letter}{cell[key]}")
    return "-".join(parts)


def identity_hash(config: Mapping[str, Any], hashes: Mapping[str, list[str]]) -> str:
    """Return the sha256 of what determines a run's results: its resolved config and the content of its inputs."""
    kept = {key: _identity(key, value) for key, value in config.items() if key not in NOT_IDENTITY}
    return files.sha256_text(json.dumps([kept, dict(hashes)], sort_keys=True))


def data_hash(spec: Mapping[str, Any]) -> str:
    """Return the sha256 of the `data` group of a config: its settings, and the content that its paths locate."""
    return files.sha256_text(json.dumps(_identity("data", spec), sort_keys=True))


def _identity(group: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        value = {key: each for key, each in value.items() if key not in NOT_IDENTITY_IN_GROUP.get(group, ())}
    return _content(value)


def _content(node: Any) -> Any:
    """Replace every value under a key of PLACES by a hash of what it locates."""
    if isinstance(node, Mapping):
        return {k: content_hash(v) if k in HASHED_PATH_KEYS and isinstance(v, str) else _content(v) for k, v in node.items()}
    return [_content(item) for item in node] if isinstance(node, list) else node


def provenance(run: Run) -> dict[str, Any]:
    """Return versions, platform, git state and input hashes."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "deme": metadata.version("deme-diffusion"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "git": _git(),
        "directory": str(Path.cwd()),
        "command": [word for word in sys.argv[1:] if not word.startswith("hydra")],
        "inputs": {
            n: {str(p): h for p, h in zip(ps, run.hashes.get(n, []), strict=False)} for n, ps in run.inputs.items()
        },
    }


def _git() -> dict[str, Any] | None:
    if not (PACKAGE.parent / ".git").exists():
        return None
    with contextlib.suppress(OSError, subprocess.CalledProcessError):

        def ask(*words: str) -> str:
            return subprocess.check_output(
                ["git", "-C", str(PACKAGE.parent), *words], text=True, stderr=subprocess.DEVNULL
            ).strip()

        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    return None


def _need_less_memory(config: Mapping[str, Any]) -> str:
    """What to type when memory was not enough: what this run could still do with less."""
    size, compute = config.get("batch_size") or 1, config.get("compute") or {}
    options = []
    if size > 1:
        half = f"batch_size={size // 2}"
        more = config.get("accumulate")
        options.append(f"{half} accumulate={2 * more} (the same step, in smaller parts)" if more else half)
    if config.get("stage") == "train" and not compute.get("gradient_checkpointing"):
        options.append("compute.gradient_checkpointing=true")
    if compute.get("precision") == "32-true":
        options.append("compute.precision=bf16-mixed")
    return (
        f"out of memory with batch_size={size}\ntype: {', or '.join(options) or 'nothing helps here but more memory'}"
    )
