"""The memory that training takes, computed; activations are counted in a step of fake tensors.

torch's fake tensors have shapes, types and storages, but no memory. So the real network is run,
with autocast and checkpointing, and the tensors alive at any moment are counted: a second or two of
work, whatever the batch size.
"""

import math
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.functional import mse_loss
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from deme.methods.deme import hold_as_cast
from deme.models.network_inputs import NetworkInputs

CAST = (nn.Conv2d, nn.Linear)  # autocast keeps copies of their weights until the backward pass ends


@dataclass(frozen=True)
class Plan:
    """What determines the memory of a training step, apart from the network."""

    batch_size: int  # of a forward pass
    moments: float = 2.0  # numbers that the optimizer keeps per parameter
    averages: int = 1  # of the weights
    dtype: torch.dtype | None = None  # what autocast casts to
    gpu: bool = False
    checkpointing: bool = False
    tasks: int = 0  # whose gradients are held separately, each of its part of the batch
    update_copies: int = 1  # temporary copies of all parameters within an update
    teachers: int = 1  # in memory, if there is a teacher; 0 of one that is the average
    base_teaches: bool = False  # the teacher is the network without its adapter


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes. `activations` exist in the passes, `update` after them: never both."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    teacher: int
    casts: int
    activations: int
    update: int

    @property
    def held(self) -> int:
        """Bytes that are allocated all the time."""
        return self.weights + self.gradients + self.optimizer + self.average + self.teacher

    @property
    def peak(self) -> int:
        """Bytes at the peak of a step, from the second one on, with the last step's gradients."""
        return self.held + max(self.casts + self.activations, self.update)

    def __str__(self) -> str:
        parts = {
            name: getattr(self, name)
            for name in ("weights", "gradients", "optimizer", "average", "teacher")
        }
        if self.casts + self.activations >= self.update:
            parts |= {"low-precision copies": self.casts, "activations": self.activations}
        else:
            parts["copies within an update"] = self.update
        unit, name = (1e9, "GB") if self.peak >= 1e8 else (1e6, "MB")
        shown = ", ".join(f"{part} {size / unit:.2g}" for part, size in parts.items() if size)
        return f"{self.peak / unit:.2g} {name} ({shown})"


def training_memory(
    student: Callable[[], nn.Module],
    teacher: Callable[[], nn.Module] | None,
    inputs: NetworkInputs,
    plan: Plan,
) -> TrainingMemory:
    """Return the memory of training a diffusers network, without images and the device's libraries.

    `student()` makes the network, with whatever else is trained as a submodule of it; of one with
    an adapter only the adapter is trained.
    """
    rows = math.ceil(plan.batch_size / max(1, plan.tasks))
    with torch.device("meta"):
        network = student().train()
        frozen = teacher().eval().requires_grad_(False) if teacher is not None else None
    if frozen is not None and plan.dtype is not None:
        hold_as_cast(frozen, plan.dtype)
    if plan.checkpointing:
        network.enable_gradient_checkpointing()  # type: ignore[operator]
    if plan.gpu and plan.dtype is not None:
        norms_in_float32(network)
    with FakeTensorMode(allow_non_fake_inputs=True):
        # The device decides over attention kernels and autocast: fake tensors on a CPU.
        for module in (network, frozen):
            if module is not None:
                module.to_empty(device="cpu")
        with warnings.catch_warnings():  # about kernels that are not run
            warnings.simplefilter("ignore")
            most = most_alive(lambda: _step(network, frozen, inputs, rows, plan), [network, frozen])
    size = _bytes(p for p in network.parameters() if p.requires_grad)  # of what is trained
    cast = [p for m in network.modules() if isinstance(m, CAST) for p in m.parameters(False)]
    casts = _bytes(p for p in cast if p.requires_grad) // 2 if plan.dtype is not None else 0
    return TrainingMemory(
        weights=_bytes(network.parameters()),
        gradients=size,
        optimizer=round(plan.moments * size),
        average=plan.averages * size,
        teacher=plan.teachers * _bytes(frozen.parameters()) if frozen is not None else 0,
        casts=casts,
        activations=most - size - casts + max(0, plan.tasks - 1) * size,
        update=max(plan.update_copies, plan.tasks + 1 if plan.tasks else 0) * size,
    )


def _step(
    network: nn.Module,
    frozen: nn.Module | None,
    inputs: NetworkInputs,
    rows: int,
    plan: Plan,
) -> None:
    """Go forward and backward as the trainer does, which drops old gradients between the two.

    The backward pass frees more than it allocates, unless it recomputes activations; only then is
    it run.
    """
    for p in network.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    batch = inputs.batch(rows)
    with torch.autocast("cpu", plan.dtype, enabled=plan.dtype is not None):
        prediction = network(**batch, return_dict=False)[0]
        loss = mse_loss(prediction, torch.zeros_like(prediction))
        teacher = network if plan.base_teaches else frozen
        if teacher is not None:
            with torch.no_grad():
                teacher_prediction = teacher(**batch, return_dict=False)[0]
            loss = loss + mse_loss(prediction, teacher_prediction)
    if plan.checkpointing:
        network.zero_grad()
        loss.backward()


def norms_in_float32(network: nn.Module) -> None:
    """Let normalisations see and give float32, as autocast has it on a GPU and not on a CPU."""
    for part in network.modules():
        if isinstance(part, (nn.GroupNorm, nn.LayerNorm)):
            part.register_forward_pre_hook(lambda _, given: tuple(value.float() for value in given))


def most_alive(work: Callable[[], None], modules: Iterable[nn.Module | None]) -> int:
    """Return the peak bytes of tensors alive at once in `work`, without those of `modules`."""
    known = {
        p.untyped_storage()._cdata
        for m in modules
        if m is not None
        for p in [*m.parameters(), *m.buffers()]
    }
    with _Alive(known) as alive:
        work()
    return alive.most


class _Alive(TorchDispatchMode):
    """Counts the bytes of every storage from the operation that makes it until it is released."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known = known
        self.now = self.most = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[FakeTensor, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func is torch.ops.prim.device.default:  # most calls: a fake tensor's device
            return args[0].fake_device
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                if storage._cdata not in self.known:
                    self.known.add(storage._cdata)
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self._released, storage._cdata, storage.nbytes())
        return out

    def _released(self, storage: int, size: int) -> None:
        self.known.discard(storage)
        self.now -= size


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
