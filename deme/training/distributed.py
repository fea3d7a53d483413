"""The processes of one torchrun or srun that train a run together, as one process would.

Before and after training they publish messages in a store and poll it, so that a signal or a lost
process is noticed at once. During training, gradients are averaged once per optimizer step in a
fixed order: no bucket depends on the step at which a process was resumed, so that a resumed run
repeats an undisturbed one bit for bit. Flags and logged numbers go through a gloo group of the CPU,
which never waits for a GPU.
"""

import contextlib
import functools
import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _take_tensors, _unflatten_dense_tensors
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from deme.system import DemeError, Preempted, Stopped, WorkFailed, first_line, processes

BUCKET_BYTES = 100 << 20  # of gradients that are averaged in one message
INIT_SECONDS = 600.0  # that the slowest process may import longer than the fastest
CONNECT_TIMEOUT = timedelta(seconds=2)  # between attempts, signals are handled
POLL_SECONDS = 0.05
SHUTDOWN_SECONDS = 10.0  # that process 0 waits for the others to read how it ended
LOST = (
    "another process of this run ended or cannot be reached; its own message says why\n"
    "run the same command to resume"
)

Message = dict[str, str | int | bool]


class ProcessLost(WorkFailed):
    """Another process of the group is gone."""


class ProcessGroup:
    """All processes of this training, one device each. Made once, for every run they train."""

    def __init__(self, device: str) -> None:
        """Wait for the others. Raises ProcessLost if they do not come."""
        world = processes.world()
        self.rank, self.size = world.rank, world.size
        self._job = 0
        self._published: set[str] = set()
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = PrefixStore(f"deme/{restarts}", _store(world))
        with _reachable():
            self._store.set(f"here/{self.rank}", "")
            self._wait([f"here/{rank}" for rank in range(self.size)], INIT_SECONDS)
            backend = "nccl" if device.startswith("cuda") else "gloo"
            if backend == "nccl":
                torch.cuda.set_device(device)
            dist.init_process_group(
                backend, store=self._store, rank=self.rank, world_size=self.size
            )
            control = dist.new_group(backend="gloo")
            assert isinstance(control, dist.ProcessGroup)
            self._control = control

    @contextlib.contextmanager
    def job(self) -> Iterator[None]:
        """Do one run in the block, as all processes do in the same order.

        An error that ends the block here is published, so that it ends the others, too.
        """
        self._job += 1
        self._published = set()
        seconds = 0.0
        try:
            yield
            seconds = SHUTDOWN_SECONDS
        except ProcessLost:
            raise
        except (Exception, Stopped, KeyboardInterrupt) as error:
            code = error.exit_code if isinstance(error, (DemeError, Stopped)) else 1
            text = str(error).partition("\n")[0] or type(error).__name__
            with contextlib.suppress(ProcessLost):
                for key in ("go", "start", "end"):
                    self.publish(key, error=text, code=code)
            seconds = SHUTDOWN_SECONDS
            raise
        finally:
            with contextlib.suppress(ProcessLost):
                self.publish("shutdown")
                if self.rank == 0:
                    keys = [self._key("shutdown", rank) for rank in range(self.size)]
                    self._wait(keys, seconds)

    def publish(self, key: str, **message: str | int | bool) -> None:
        """Leave a message for the others; only the first one under a key of a run counts."""
        if key not in self._published:
            self._published.add(key)
            with _reachable():
                self._store.set(self._key(key, self.rank), json.dumps(message))

    def wait_for(self, key: str, rank: int = 0) -> Message:
        """Return the message of a process. Raises the error that it published, or ProcessLost."""
        place = self._key(key, rank)
        # process 0 holds the store: if it ends, the others notice by themselves
        self._wait([place], INIT_SECONDS if self.rank == 0 else math.inf)
        with _reachable():
            message: Message = json.loads(self._store.get(place))
        if "error" in message:
            text = f"process {rank} of {self.size}: {message['error']}"
            if message["code"] in (75, 130):
                raise Preempted(text)
            error = DemeError(text)
            error.exit_code = int(message["code"])
            raise error
        return message

    def all_gather(self, key: str, **message: str | int | bool) -> list[Message]:
        """Publish a message, and return those of all processes under this key."""
        self.publish(key, **message)
        return [self.wait_for(key, rank) for rank in range(self.size)]

    def _wait(self, keys: list[str], seconds: float) -> None:
        """Poll for messages, because signals are not handled while torch waits."""
        deadline = time.monotonic() + seconds
        with _reachable():
            while not self._store.check(keys):
                if time.monotonic() > deadline:
                    raise ProcessLost(LOST)
                time.sleep(POLL_SECONDS)

    def _key(self, key: str, rank: int) -> str:
        return f"{self._job}/{key}/{rank}"

    def all_reduce_max(self, value: int) -> int:
        """Return the largest of all processes' values."""
        values = torch.tensor(value)
        with _reachable():
            dist.all_reduce(values, dist.ReduceOp.MAX, group=self._control)
        return int(values)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of all processes' values, float64 on the CPU."""
        values = values.detach().double().cpu()
        with _reachable():
            dist.all_reduce(values, group=self._control)
        return values / self.size

    @torch.no_grad()
    def average(self, gradients: Iterable[Tensor]) -> None:
        """Replace gradients by their means over all processes, in place."""
        with _reachable():
            for bucket in _take_tensors(gradients, BUCKET_BYTES):
                flat = _flatten_dense_tensors(bucket)
                dist.all_reduce(flat)
                flat /= self.size
                means = _unflatten_dense_tensors(flat, bucket)
                for gradient, mean in zip(bucket, means, strict=True):
                    gradient.copy_(mean)


def _store(world: processes.World) -> Store:
    """Return the store of all processes, which process 0 holds unless torchrun does.

    Raises ProcessLost if it cannot be reached.
    """
    holds = world.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    deadline = time.monotonic() + INIT_SECONDS
    while True:
        try:
            with _reachable():
                store = TCPStore(
                    world.address,
                    world.port,
                    world.size,
                    holds,
                    CONNECT_TIMEOUT,
                    wait_for_workers=False,
                )
                store.set_timeout(timedelta(seconds=INIT_SECONDS))
                return store
        except ProcessLost:
            if holds or time.monotonic() > deadline:
                raise


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's and gloo's, for a connection that broke
        raise ProcessLost(f"{LOST}\n({first_line(error):.150})") from error


@functools.cache
def init_distributed(device: str) -> ProcessGroup:
    """Return the group that this process belongs to; the first call waits for the others."""
    return ProcessGroup(device)
