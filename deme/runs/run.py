"""Run directories: identity, state and provenance (DESIGN 7). No torch here."""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deme.runs.identity import identity_hash
from deme.runs.inputs import content_hash, find, input_hash, is_run, read_status, weights_folder
from deme.runs.provenance import provenance
from deme.runs.settings.base import build
from deme.runs.settings.commands import SETTINGS
from deme.system import files
from deme.system.console import log_to_file, logger
from deme.system.errors import BadConfig, DemeError, Stopped, WorkFailed, out_of_memory


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
        build(SETTINGS[config["stage"]], config)
        found = {name: find(value, config) for name, value in config["inputs"].items()}
        hashes = {
            name: [input_hash(name, path) for path in paths]
            for name, paths in found.items()
            if paths
        }
        identity = identity_hash(config, hashes)
        folder = Path(
            config["paths"]["runs"],
            config["suite"],
            config["stage"],
            f"{slug(config)}-{identity[:10]}",
        )
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

    def execute(
        self, work: Callable[["Run"], None], helper: Callable[["Run"], None] | None = None
    ) -> Path:
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
            say(
                f"{owner} is working on {self.path}; {'working with it' if helper else 'waiting for it'}"
            )
            if helper is not None:
                helper(self)

        with files.locked(self.path / ".lock", waiting):
            if self.done:
                yield False
                return
            body = yaml.safe_dump(self.config, sort_keys=False)
            files.write_text(self.path / "config.yaml", f"{_header(self.identity, body)}\n{body}")
            files.write_json(self.path / "run.json", provenance(self.inputs, self.hashes))
            before, began = read_status(self.path).get("seconds", 0.0), time.monotonic()

            def seconds() -> float:  # in all sittings, but for one that was killed
                return round(before + time.monotonic() - began, 1)

            self.write_status("running", seconds=before)
            try:
                self._verify_inputs()
                with log_to_file(self.path / "log.txt"):
                    yield True
            except BaseException as error:
                told = WorkFailed(_need_less_memory(self.config)) if out_of_memory(error) else error
                with contextlib.suppress(DemeError):
                    stopped = isinstance(error, (Stopped, KeyboardInterrupt))
                    self.write_status(
                        "preempted" if stopped else "failed", error=str(told), seconds=seconds()
                    )
                if told is error:
                    raise
                raise told from error
            spent = seconds()
            weights = {
                p.name: files.sha256(p) for p in sorted((self.path / "weights").glob("[!.]*"))
            }
            self.write_status("done", weights=weights, seconds=spent)

    def write_status(self, state: str, **more: Any) -> None:
        """Replace status.json."""
        files.write_json(
            self.path / "status.json",
            {"state": state, "pid": os.getpid(), "time": time.time(), **more},
        )

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
        """Log a message."""
        if self.is_main_process:
            logger.info(text)


say = logger.info

FORMAT = 2  # of run directories and of identities; 1: options were counted by the modules that their classes lay in
HEADER = re.compile(r"# deme run, format (\d+), identity (\w+), sha256 of the rest (\w+)")


def _header(identity: str, body: str) -> str:
    return f"# deme run, format {FORMAT}, identity {identity}, sha256 of the rest {files.sha256_text(body)}"


def config_unmodified(file: Path) -> bool:
    """Whether a frozen config.yaml is as it was written: its first line names the hash of the rest."""
    head, _, body = file.read_text().partition("\n")
    found = HEADER.fullmatch(head)
    return found is not None and found[3] == files.sha256_text(body)


def recorded_identity(file: Path) -> str:
    """Return the identity that a frozen config.yaml names, "" where it names none."""
    found = HEADER.fullmatch(file.read_text().partition("\n")[0])
    return found[2] if found else ""


def slug(config: Mapping[str, Any]) -> str:
    """Return the readable part of a run id."""
    cell = config["cell"]
    parts = [str(cell.get("method", config["stage"]))]
    for key, letter in (("expert", "e"), ("seed", "s"), ("sample_seed", "n")):
        if cell.get(key) is not None:
            parts.append(f"{letter}{cell[key]}")
    return "-".join(parts)


def _need_less_memory(config: Mapping[str, Any]) -> str:
    """What to type when memory was not enough: what this run could still do with less."""
    size, compute = config.get("batch_size") or 1, config.get("compute") or {}
    options = []
    if size > 1:
        half = f"batch_size={size // 2}"
        more = config.get("accumulate")
        options.append(
            f"{half} accumulate={2 * more} (the same step, in smaller parts)" if more else half
        )
    if config.get("stage") == "train" and not compute.get("gradient_checkpointing"):
        options.append("compute.gradient_checkpointing=true")
    if compute.get("precision") == "32-true":
        options.append("compute.precision=bf16-mixed")
    return f"out of memory with batch_size={size}\ntype: {', or '.join(options) or 'nothing helps here but more memory'}"
