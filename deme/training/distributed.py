"""The processes of one torchrun or srun that train a run together (DESIGN 9: they see what one process would see).

Before and after training they leave words in a store and look for each other's, so a signal or a lost process is noticed
at once. In training, gradients are averaged once per optimizer step, in an order that never changes: no bucket depends on
which step a process was resumed at, so a resumed run repeats an undisturbed one bit for bit. Flags and logged numbers go
through a gloo group of the CPU, which never waits for a GPU.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from deme.system import processes
from deme.system.errors import DemeError, Preempted, Stopped, WorkFailed

BUCKET_ELEMENTS = 25 << 20  # numbers that are averaged in one message
JOIN = 600.0  # seconds that the slowest process may import longer than the fastest
ATTEMPT = timedelta(seconds=2)  # to reach the first process; between attempts a signal is heard
LOOK_EVERY = 0.05  # seconds
GOODBYE = 10.0  # seconds that the first process waits for the others to have heard how it ended
LOST = "another process of this run ended or cannot be reached; its own message says why\nthe same command goes on from here"


class Lost(WorkFailed):
    """Another process of the team is gone."""


class Team:
    """All processes of this training, one device each. Made once per process, for every run that it trains."""

    def __init__(self, device: str) -> None:
        """Meet the others. Raises Lost if they do not come."""
        world = processes.world()
        self.rank, self.size = world.rank, world.size
        self._job = 0
        self._told: set[str] = set()
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = PrefixStore(f"deme/{again}", _store(world))
        with _reachable():
            self._meet()
            backend = "nccl" if device.startswith("cuda") else "gloo"
            if backend == "nccl":
                torch.cuda.set_device(device)
            dist.init_process_group(
                backend, store=self._store, rank=self.rank, world_size=self.size
            )
            self._control: Any = dist.new_group(backend="gloo")

    def _meet(self) -> None:
        """Wait until all are here: not in torch, which would not hear a signal."""
        self._store.set(f"here/{self.rank}", "")
        until = time.monotonic() + JOIN
        while not self._store.check([f"here/{rank}" for rank in range(self.size)]):
            time.sleep(LOOK_EVERY)
            if time.monotonic() > until:
                raise Lost(LOST)

    @contextlib.contextmanager
    def job(self) -> Iterator[None]:
        """Do one run in the block, as all processes do, in the same order; how it ends here the others can hear."""
        self._job += 1
        self._told = set()
        until = time.monotonic()
        try:
            yield
            until = time.monotonic() + GOODBYE
        except Lost:
            raise
        except (Exception, Stopped, KeyboardInterrupt) as error:
            code = error.exit_code if isinstance(error, (DemeError, Stopped)) else 1
            word = {"error": str(error).partition("\n")[0] or type(error).__name__, "code": code}
            with contextlib.suppress(Lost):
                for moment in ("go", "start", "end"):
                    self.tell(moment, **word)
            until = time.monotonic() + GOODBYE
            raise
        finally:
            with contextlib.suppress(Lost):
                self.tell("bye")
                while self.rank == 0 and not self._said_by_all("bye") and time.monotonic() < until:
                    time.sleep(LOOK_EVERY)

    def tell(self, moment: str, **word: Any) -> None:
        """Leave a word for the others; the first at a moment of a run counts."""
        if moment not in self._told:
            self._told.add(moment)
            with _reachable():
                self._store.set(self._key(moment, self.rank), json.dumps(word))

    def hear(self, moment: str, rank: int = 0) -> dict[str, Any]:
        """Wait for the word of a process. Raises its error, or Lost."""
        with _reachable():
            until = time.monotonic() + JOIN
            while not self._store.check([self._key(moment, rank)]):
                time.sleep(LOOK_EVERY)
                if (
                    self.rank == 0 and time.monotonic() > until
                ):  # the others notice: process 0 holds the store
                    raise Lost(LOST)
            word: dict[str, Any] = json.loads(self._store.get(self._key(moment, rank)))
        if "error" in word:
            raise _theirs(rank, self.size, word)
        return word

    def exchange(self, moment: str, **word: Any) -> list[dict[str, Any]]:
        """Tell, and wait for what all tell at this moment."""
        self.tell(moment, **word)
        return [self.hear(moment, rank) for rank in range(self.size)]

    def _key(self, moment: str, rank: int) -> str:
        return f"{self._job}/{moment}/{rank}"

    def _said_by_all(self, moment: str) -> bool:
        with _reachable():
            return bool(self._store.check([self._key(moment, rank) for rank in range(self.size)]))

    def most(self, value: int) -> int:
        """Return the largest of all processes' values."""
        return int(self._reduced(torch.tensor(value), dist.ReduceOp.MAX))

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of all processes' values, float64 on the CPU."""
        return self._reduced(values.detach().double().cpu(), dist.ReduceOp.SUM) / self.size

    def _reduced(self, values: Tensor, how: Any) -> Tensor:
        with _reachable():
            dist.all_reduce(values, how, group=self._control)
        return values

    @torch.no_grad()
    def average(self, gradients: Iterable[Tensor]) -> None:
        """Replace gradients by their means over all processes, in place."""
        with _reachable():
            for piece in _pieces(list(gradients)):
                flat = torch.cat([gradient.reshape(-1) for gradient in piece])
                dist.all_reduce(flat)
                flat /= self.size
                parts = flat.split([gradient.numel() for gradient in piece])
                for gradient, part in zip(piece, parts, strict=True):
                    gradient.copy_(part.view_as(gradient))


def _store(world: processes.World) -> Store:
    """Return the store of all processes: the first one holds it, unless torchrun does. Raises Lost if it is not there."""
    holds = world.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    until = time.monotonic() + JOIN
    while True:
        try:
            store = TCPStore(
                world.address, world.port, world.size, holds, ATTEMPT, wait_for_workers=False
            )
            store.set_timeout(timedelta(seconds=JOIN))
            return store
        except RuntimeError as error:
            if holds or time.monotonic() > until:
                raise Lost(f"{LOST}\n({str(error).splitlines()[0][:150]})") from error


def _pieces(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    piece: list[Tensor] = []
    for gradient in gradients:
        if piece and (
            sum(g.numel() for g in piece) + gradient.numel() > BUCKET_ELEMENTS
            or gradient.dtype != piece[0].dtype
        ):
            yield piece
            piece = []
        piece.append(gradient)
    if piece:
        yield piece


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's and gloo's, for a connection that broke
        raise Lost(f"{LOST}\n({str(error).splitlines()[0][:150]})") from error


def _theirs(rank: int, size: int, word: dict[str, Any]) -> BaseException:
    text = f"process {rank} of {size}: {word['error']}"
    if word["code"] in (75, 130):
        return Preempted(text)
    error = DemeError(text)
    error.exit_code = word["code"]
    return error


_team: Team | None = None


def join(device: str) -> Team:
    """Return the team that this process belongs to, and join it the first time."""
    global _team
    if _team is None:
        _team = Team(device)
    return _team
