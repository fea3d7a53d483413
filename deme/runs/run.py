"""Run directories: identity, state and what is recorded of a run (docs/runs.md)."""

import contextlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from deme.runs.arguments import check_options
from deme.runs.composed import flat
from deme.runs.formats import Status
from deme.runs.identity import identity_hash
from deme.runs.inputs import (
    check_format,
    content_hash,
    find,
    input_hash,
)
from deme.runs.names import run_folder
from deme.runs.provenance import provenance
from deme.runs.run_files import damaged, damages, is_run, outputs_of, read_status
from deme.runs.settings import (
    BatchSettings,
    Config,
    FromModelSettings,
    RunSettings,
    TrainSettings,
    run_settings,
)
from deme.runs.trusted import check_targets
from deme.runs.weights import log_weights, stored_hash, weights_folder
from deme.system import (
    EMA_WEIGHTS,
    BadConfig,
    DemeError,
    Stopped,
    WorkFailed,
    below,
    disk_errors,
    exists,
    files,
    guarded,
    locked,
    log_to_file,
    logger,
    out_of_memory,
    read_text,
    slurm_job,
)
from deme.system.errors import note_run

# First line of config.yaml. In format 1 the module of a class was part of identities.
HEAD = "# deme run, format 2, identity {identity}, sha256 of the rest {digest}"
HEADER = re.compile(HEAD.format(identity=r"(?P<identity>\w+)", digest=r"(?P<digest>\w+)"))


@dataclass(frozen=True)
class Run:
    """A run directory, existing or planned.

    Of several processes that train a run together, the one with `is_main_process` writes.
    """

    path: Path
    identity: str
    config: Config = field(repr=False)
    inputs: dict[str, list[Path]] = field(repr=False)
    hashes: dict[str, list[str]] = field(repr=False)
    settings: RunSettings = field(repr=False)
    is_main_process: bool = True

    @classmethod
    def planned(cls, config: Config) -> "Run":
        """Return the run of a resolved config: find and hash its inputs, derive its id.

        Raises MissingInput and BadConfig.
        """
        settings = run_settings(config)
        suite = Path(settings.paths.runs, settings.suite)
        found = {name: find(value, suite) for name, value in settings.inputs.items()}
        hashes = {}
        for name, paths in found.items():
            weights = settings.weights_meant(name, len(paths))
            if paths:
                hashes[name] = [input_hash(name, path, weights) for path in paths]
        identity = identity_hash(config, settings.stage, hashes)
        path = run_folder(suite / settings.stage, flat(config), identity)
        return cls(path, identity, config, found, hashes, settings)

    @property
    def status(self) -> Status:
        """status.json, or {} for a run that never started."""
        return read_status(self.path)

    @property
    def state(self) -> str:
        """done, running, preempted or failed; damaged without its outputs; ready without any state.

        Raises BadConfig if its directory holds another config.
        """
        check_format(self.path)
        file = self.path / "config.yaml"
        if file.exists() and frozen_identity(file) != (self.identity, True):
            raise BadConfig(
                f"{self.path} holds the run of another config: its config.yaml was edited or "
                "copied\nmove it away, or choose another place: paths.runs=<dir>"
            )
        status = self.status
        state = str(status.get("state", "ready"))
        return "damaged" if state == "done" and damaged(self.path, status) else state

    @property
    def done(self) -> bool:
        """Whether the run finished, and its outputs are there. Raises BadConfig as `state` does."""
        return self.state == "done"

    def execute(
        self, work: Callable[["Run"], None], helper: Callable[["Run"], None] | None = None
    ) -> Path:
        """Do the run's work unless it is done; return the run directory.

        While another process does it, call `helper`, if given, then wait for the other process.
        """

        def wait(owner: str) -> None:
            doing = "helping" if helper else "waiting"
            logger.info("%s is working on %s; %s", owner, self.path, doing)
            if helper:
                with guarded(self.path):
                    helper(self)

        if self.done:
            logger.info("%s is done already", self.path)
            return self.path
        check_targets(self.config)  # before any work, whichever option is built last
        check_options(self.settings)
        with locked(self.path / ".lock", wait), guarded(self.path):
            if self.done:
                logger.info("%s was done by another process", self.path)
            else:
                self._clean()
                self._record(work)
        return self.path

    def _clean(self) -> None:
        """Remove what killed processes were writing, and what a damaged run must not go on from."""
        for folder, _, _ in os.walk(self.path):
            files.remove_leftovers(Path(folder))
        if self.state == "damaged":
            found = dict(damages(self.path, self.status))
            what = next(iter(found.values()))
            logger.warning("%s is damaged: %s; it is made again", self.path, what)
            # an evaluation that has metrics measures nothing
            for place in [below(self.path, name) for name in ("metrics.json", *found)]:
                if exists(place):
                    with disk_errors(place):
                        place.unlink()

    def _record(self, work: Callable[["Run"], None]) -> None:
        """Call `work` and record what it is made from, what becomes of it and how long it takes.

        The state is `running` until it ends; then it is `done`, `preempted` or `failed`.
        """
        body = yaml.safe_dump(self.config, sort_keys=False)
        head = HEAD.format(identity=self.identity, digest=files.sha256_text(body))
        files.write_text(self.path / "config.yaml", f"{head}\n{body}")
        files.write_json(self.path / "run.json", provenance(self.inputs, self.hashes))
        before, began = self.status.get("seconds", 0.0), time.monotonic()

        def seconds() -> float:  # of all attempts, except those that were killed
            return round(before + time.monotonic() - began, 1)

        self._write_status("running", seconds=before)
        try:
            self._verify_inputs()
            with log_to_file(self.path / "log.txt"):
                for name, paths in self.inputs.items():
                    log_weights(f"inputs.{name}", paths, self._weights_meant(name))
                work(self)
            spent = seconds()
            folders = sorted((self.path / "weights").glob("[!.]*"))
            weights = {folder.name: files.sha256(folder) for folder in folders}
            outputs = outputs_of(self.path)
        except BaseException as error:
            failure = _memory_error(self.settings) if out_of_memory(error) else error
            stopped = isinstance(error, (Stopped, KeyboardInterrupt))
            with contextlib.suppress(DemeError):
                state = "preempted" if stopped else "failed"
                code = getattr(failure, "exit_code", 1)
                self._write_status(state, error=str(failure), exit_code=code, seconds=seconds())
            note_run(failure, self.path)
            if failure is error:
                raise
            raise failure from error
        self._write_status("done", weights=weights, seconds=spent, outputs=outputs)

    def _write_status(self, state: str, **more: object) -> None:
        job = {"job": found} if (found := slurm_job()) is not None else {}
        status = {"state": state, "pid": os.getpid(), "time": time.time(), **job, **more}
        files.write_json(self.path / "status.json", status)

    def reset_failure(self) -> None:
        """Let a run that failed be done again: its state is then that of a run that was stopped."""
        with locked(self.path / ".lock", None) as held:
            if held and self.status.get("state") == "failed":
                self._write_status("preempted", seconds=self.status.get("seconds", 0.0))

    def _verify_inputs(self) -> None:
        """Raise WorkFailed if the weights of an input changed after its run finished."""
        recorded = [
            (path, self._weights_meant(name), digest)
            for name, paths in self.inputs.items()
            for path, digest in zip(paths, self.hashes.get(name, []), strict=True)
            if is_run(path) and (path / "weights").is_dir()
        ]
        settings = self.settings
        model = settings.model.get("path") if isinstance(settings, FromModelSettings) else None
        if isinstance(model, str) and ":" not in model and is_run(Path(model)):
            recorded.append((Path(model), EMA_WEIGHTS, content_hash(model)))
        for path, weights, digest in recorded:
            if stored_hash(path, weights) != digest:
                raise WorkFailed(
                    f"the weights of {path} changed after that run finished\n"
                    "delete that run directory and make it again"
                )

    def weights_folders(self, name: str) -> list[Path]:
        """Return the model folders of an input: those of runs, or folders that are given."""
        weights = self._weights_meant(name)
        return [weights_folder(path, weights) for path in self.inputs.get(name) or []]

    def _weights_meant(self, name: str) -> str:
        return self.settings.weights_meant(name, len(self.inputs.get(name) or []))

    def single_input(self, name: str) -> Path | None:
        """Return the single input `name`, or None if it was not given."""
        paths = self.inputs.get(name) or []
        if len(paths) > 1:
            raise BadConfig(
                f"inputs.{name} takes one run, found {len(paths)}: "
                f"{', '.join(path.name for path in paths)}\n"
                f"name the one you mean: inputs.{name}=<run directory>"
            )
        return paths[0] if paths else None

    def write_once(self, name: str, make: Callable[[], None], *others: str) -> None:
        """Let `make` write the file `name` of a finished run, and `others`, unless all are there.

        Of two processes that want it at once, one makes it and the other waits.
        """

        def wait(owner: str) -> None:
            logger.info("%s is making %s of %s; waiting", owner, name, self.path.name)

        def missing() -> bool:
            return not all((self.path / each).exists() for each in (name, *others))

        if missing():  # a finished run may be read-only
            lock = self.path / f".{name}.lock"
            with locked(lock, wait, remove=True), guarded(self.path):
                files.remove_leftovers(self.path)
                if missing():
                    make()


def frozen_identity(file: Path) -> tuple[str, bool]:
    """Return the identity that a frozen config.yaml names, and whether the rest is unmodified.

    The identity is "" for a file that names none. Raises MissingInput, WorkFailed for a file that
    is no text.
    """
    head, _, body = read_text(file).partition("\n")
    found = HEADER.fullmatch(head)
    if found is None:
        return "", False
    return found["identity"], found["digest"] == files.sha256_text(body)


def _memory_error(settings: RunSettings) -> WorkFailed:
    """Return the error of a run that ran out of memory, with the settings that need less."""
    if not isinstance(settings, BatchSettings):
        return WorkFailed("out of memory\nmerging needs a machine with more memory")
    size, options = settings.batch_size, []
    if size > 1:
        options.append(f"batch_size={size // 2}")
    if isinstance(settings, TrainSettings):
        if options:
            options[0] += f" accumulate={2 * settings.accumulate} (the same step, smaller batches)"
        if not settings.compute.gradient_checkpointing:
            options.append("compute.gradient_checkpointing=true")
        if settings.method.get("resident") == "all" and settings.inputs.get("experts"):
            options.append("method.resident=one (one expert on the device at a time)")
    if settings.compute.precision == "32-true":
        options.append("compute.precision=bf16-mixed")
    advice = f"type: {', or '.join(options)}" if options else "it needs a device with more memory"
    return WorkFailed(f"out of memory with batch_size={size}\n{advice}")
