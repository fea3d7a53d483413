"""The processes of one torchrun or srun that train a run together, as one process would.

torch.distributed does the work: rendezvous, collectives, DistributedDataParallel, and fully_shard
for models that are too large for one device. This module adds what these lack: signals are handled
while a process waits for others, and an error of one process ends the run in all of them with one
message.
"""

import contextlib
import functools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from deme.system import (
    DemeError,
    Preempted,
    Stopped,
    WorkFailed,
    duration,
    first_line,
    logger,
    processes,
)

STARTUP_TIMEOUT = timedelta(minutes=10)  # for the slowest process to start
CONTROL_TIMEOUT = timedelta(days=7)  # while one process prepares; a lost one is noticed at once
CONNECT_TIMEOUT = timedelta(seconds=2)  # of one attempt to connect
NOTICE_SECONDS = 5.0  # of waiting for the others, until a message says so
FAILURE_SECONDS = 2.0  # in which the processes exchange an error
LOST = (
    "another process of this run ended or cannot be reached; its own message says why\n"
    "run the same command to resume"
)

T = TypeVar("T")


class ProcessLost(WorkFailed):
    """Another process of the group is gone."""


@dataclass(frozen=True)
class Failure:
    """An error of one process, as it is sent to the others."""

    text: str
    exit_code: int

    @classmethod
    def of(cls, error: BaseException, rank: int, size: int) -> "Failure":
        """Return the first line of an error, and the exit code that it ends the program with."""
        text = str(error).partition("\n")[0] or type(error).__name__
        code = error.exit_code if isinstance(error, (DemeError, Stopped)) else 1
        return cls(f"process {rank} of {size}: {text}", code)

    def error(self, is_reported: bool) -> DemeError | Stopped:
        """Return the error that ends another process."""
        if self.exit_code in (75, 130):
            stop = Preempted(self.text)
            stop.is_reported = is_reported
            return stop
        error = DemeError(self.text)
        error.exit_code, error.is_reported = self.exit_code, is_reported
        return error


class ProcessGroup:
    """All processes of this training, one device each. Made once, for every run they train."""

    def __init__(self, device: str) -> None:
        """Wait for the others. Raises ProcessLost if they do not come."""
        world = processes.world()
        self.rank, self.size = world.rank, world.size
        self._is_gathering = self._is_lost = False
        gpu = device.startswith("cuda")
        if gpu:
            torch.cuda.set_device(device)
        waiting = threading.Timer(NOTICE_SECONDS, self._log_waiting, [world])
        waiting.daemon = True
        waiting.start()
        with self.reachable():
            self._store = _store(world)
            interruptible(
                lambda: dist.init_process_group(
                    "cpu:gloo,cuda:nccl" if gpu else "gloo",
                    store=self._store,
                    rank=self.rank,
                    world_size=self.size,
                    timeout=STARTUP_TIMEOUT,
                )
            )
            # for messages between the processes, never for gradients
            control = interruptible(lambda: dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT))
        waiting.cancel()
        self._control = cast(dist.ProcessGroup, control)

    def _log_waiting(self, world: processes.World) -> None:
        logger.warning(
            "process %d of %d waits for the others at %s, port %d, for at most %s",
            world.rank,
            world.size,
            world.address,
            world.port,
            duration(STARTUP_TIMEOUT.total_seconds()),
        )

    @contextlib.contextmanager
    def job(self) -> Iterator[None]:
        """Do one run in the block, as all processes do in the same order.

        An error that ends the block in one process ends it in all of them, with the same exit code,
        and one of them prints it.
        """
        if self._is_lost:
            raise ProcessLost(LOST)
        try:
            yield
        except _PeerFailed as heard:
            raise heard.error from None
        except ProcessLost as error:
            found = self._received_failure()
            if isinstance(found, Failure):
                raise found.error(is_reported=True) from None
            error.is_reported = found is not None
            raise
        except (Exception, Stopped, KeyboardInterrupt) as error:
            failure = Failure.of(error, self.rank, self.size)
            if self._send_failure(failure) and isinstance(error, (DemeError, Stopped)):
                error.is_reported = self.rank > 0
            raise

    def _send_failure(self, failure: Failure) -> bool:
        """Send an error to the others; return whether they received it.

        Processes in the middle of training notice that this one ends, and then read the error.
        """
        if not self._is_gathering:
            with contextlib.suppress(ProcessLost):
                self._gather(failure, FAILURE_SECONDS)
                return True
        self._is_lost = True
        with contextlib.suppress(RuntimeError):
            self._store.set("end", json.dumps(asdict(failure)))
        return False

    def _received_failure(self) -> Failure | str | None:
        """Return why a process ended, or "" if the first process reports a lost one."""
        with contextlib.suppress(RuntimeError):
            if self.rank == 0 and not self._store.check(["end"]):
                self._store.set("end", "")
                return None
            self._store.wait(["end"], timedelta(seconds=FAILURE_SECONDS))
            text = self._store.get("end").decode()
            return Failure(**json.loads(text)) if text else ""
        return None

    def all_gather(self, value: object = None) -> list[object]:
        """Exchange a value with all processes, and return those of all, by rank.

        Ends the block of `job` if one of them has failed.
        """
        found = self._gather(value)
        for one in found:
            if isinstance(one, Failure):
                raise _PeerFailed(one.error(is_reported=self.rank > 0))
        return found

    def _gather(self, value: object, seconds: float | None = None) -> list[object]:
        found: list[object] = [None] * self.size
        self._is_gathering = True  # until the others answer: a signal may end the waiting
        with self.reachable():
            interruptible(lambda: dist.all_gather_object(found, value, self._control), seconds)
        self._is_gathering = False
        return found

    def all_reduce_max(self, value: int) -> int:
        """Return the largest of all processes' values."""
        values = torch.tensor(value)
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self._control)
        return int(values)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of all processes' values, float64 on the CPU."""
        values = values.detach().double().cpu()
        dist.all_reduce(values, group=self._control)
        return values / self.size

    def all_reduce_sum(self, values: Tensor) -> None:
        """Replace values by their sums over all processes, in place."""
        dist.all_reduce(values)

    def parallel(self, module: nn.Module) -> DistributedDataParallel:
        """Return a module whose gradients are means over all processes.

        After its first backward pass torch rebuilds the buckets in which it adds gradients up, in
        the order in which they were computed. So that a run that resumes adds them as one that goes
        on, that pass is one of zeros here: `module()` returns a sum over its parameters.
        """
        parallel = DistributedDataParallel(module, gradient_as_bucket_view=True)
        (0.0 * parallel()).backward()
        parallel.zero_grad()
        return parallel

    @contextlib.contextmanager
    def reachable(self) -> Iterator[None]:
        """Raise ProcessLost for torch's errors of a connection that broke in the block."""
        try:
            yield
        except RuntimeError as error:
            known = isinstance(error, (dist.DistError, _NoAnswer))
            if not known and "gloo" not in str(error):  # gloo's errors have no class
                raise
            self._is_lost = True
            raise ProcessLost(f"{LOST}\n({first_line(error):.150})") from error


class _PeerFailed(Exception):
    """Another process has sent its failure."""

    def __init__(self, error: DemeError | Stopped) -> None:
        super().__init__(str(error))
        self.error = error


class _NoAnswer(RuntimeError):
    """The other processes do not answer in time."""


def interruptible(call: Callable[[], T], seconds: float | None = None) -> T:
    """Return call(), which waits for other processes, and handle signals meanwhile.

    torch handles none while it waits, so it waits in another thread. Raises _NoAnswer after
    `seconds`.
    """
    outcome: list[T | BaseException] = []

    def work() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise _NoAnswer(f"no answer after {seconds:g} seconds")
    (found,) = outcome
    if isinstance(found, BaseException):
        raise found
    return found


def _store(world: processes.World) -> Store:
    """Return the store of all processes, which the first one holds unless torchrun does.

    torch keeps the interpreter to itself while it connects, so each attempt is short.
    """
    holds = world.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    deadline = time.monotonic() + STARTUP_TIMEOUT.total_seconds()
    while True:
        try:
            store = TCPStore(
                world.address,
                world.port,
                world.size,
                holds,
                CONNECT_TIMEOUT,
                wait_for_workers=False,
            )
        except RuntimeError:
            if holds or time.monotonic() > deadline:
                raise
        else:
            store.set_timeout(STARTUP_TIMEOUT)
            return PrefixStore(f"deme/{restarts}", store)


@functools.cache
def init_distributed(device: str) -> ProcessGroup:
    """Return the group that this process belongs to; the first call waits for the others."""
    return ProcessGroup(device)
