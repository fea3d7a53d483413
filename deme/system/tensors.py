"""safetensors files: written in a stream, read tensor by tensor or in pieces, and checked."""

import json
import math
import mmap
import os
import weakref
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deme.system.errors import MissingInput, WorkFailed
from deme.system.files import atomic
from deme.system.values import COPY_AGAIN

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
# what is read in float32, which torch computes in
READ_AS_FLOAT = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
DTYPES = {name: dtype for dtype, name in _NAMES.items()} | READ_AS_FLOAT

Spec = tuple[tuple[int, ...], torch.dtype]


class Tensors(Protocol):
    """Named tensors on disk: their shapes and types, and one at a time themselves.

    `path` is what an error names.
    """

    path: Path
    specs: dict[str, Spec]

    def read(self, name: str) -> Tensor:
        """Return one tensor; NaN or infinite values are refused."""

    def piece(self, name: str, start: int, stop: int) -> Tensor:
        """Return elements start:stop of a tensor, flat; not to be written to."""


def write_stream(
    path: Path, specs: Mapping[str, Spec], pieces: Iterable[tuple[str, Tensor]]
) -> None:
    """Write tensors in the order of `specs`, whole or piece by piece, one piece in memory.

    The file appears whole under `path` or not at all.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, dtype) in specs.items():
        size = math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        left = {tensor: math.prod(shape) for tensor, (shape, _) in specs.items()}
        for name, piece in pieces:
            left[name] -= piece.numel()
            earlier = next(tensor for tensor in left if tensor == name or left[tensor])
            if piece.dtype != specs[name][1] or left[name] < 0 or earlier != name:
                raise ValueError(
                    f"a piece of {name} does not match the header entry {earlier} {specs[earlier]}"
                )
            flat = piece.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            file.write(memoryview(flat.numpy()))  # type: ignore[arg-type]  # no copy
        if unwritten := [name for name, count in left.items() if count]:
            raise ValueError(f"nothing was written for {unwritten[0]}")


def save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` to a safetensors file, sorted by name."""
    names = sorted(tensors)
    write_stream(
        path,
        {n: (tuple(tensors[n].shape), tensors[n].dtype) for n in names},
        ((n, tensors[n]) for n in names),
    )


class TensorFile:
    """A safetensors file whose tensors are read one at a time.

    What is read is mapped for as long as it is held, not the whole file: whoever reads tensor by
    tensor holds one in memory. Raises MissingInput or WorkFailed when opened.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise MissingInput(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
        self.path = path
        try:
            with safe_open(path, framework="pt") as file:  # checks the header
                names = list(file.keys())
            with open(path, "rb") as opened:
                size = int.from_bytes(opened.read(8), "little")
                header = json.loads(opened.read(size))
        except SafetensorError as error:
            raise self._damaged(error) from error
        except OSError as error:
            raise MissingInput(f"{path} cannot be read: {error.strerror or error}") from error
        self._stored = {name: self._dtype(name, header[name]["dtype"]) for name in names}
        self.specs: dict[str, Spec] = {
            name: (tuple(header[name]["shape"]), as_read(self._stored[name])) for name in names
        }
        self._starts: dict[str, int] = {
            name: 8 + size + header[name]["data_offsets"][0] for name in names
        }

    def _dtype(self, name: str, dtype: str) -> torch.dtype:
        if dtype not in DTYPES:
            raise WorkFailed(
                f"tensor {name} of {self.path} is of type {dtype}, which is not read here\n"
                f"allowed: {', '.join(DTYPES)}; save it in one of these, such as F16"
            )
        return DTYPES[dtype]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor. Raises WorkFailed if the file has no such tensor."""
        if name not in self.specs:
            raise self._damaged(f"it has no tensor {name}")
        return self.specs[name][0]

    def _damaged(self, why: object) -> WorkFailed:
        return WorkFailed(f"{self.path} is damaged: {why}\n{COPY_AGAIN}")

    def read(self, name: str) -> Tensor:
        """Return one tensor; NaN or infinite values are refused."""
        shape = self.shape(name)
        return check_finite(
            self.piece(name, 0, math.prod(shape)).clone().reshape(shape), name, self.path
        )

    def piece(self, name: str, start: int, stop: int) -> Tensor:
        """Return elements start:stop of a tensor, flat.

        They are the system's copy of the file, ten times cheaper than ours.
        """
        dtype = self._stored[name]
        if start == stop:
            return torch.empty(0, dtype=as_read(dtype))
        at = self._starts[name] + start * dtype.itemsize
        end = at + (stop - start) * dtype.itemsize
        # to read behind a file's end would kill the process
        if os.fstat(self._descriptor).st_size < end:
            raise self._damaged(f"tensor {name} is cut off")
        page = at - at % mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(self._descriptor, end - page, access=mmap.ACCESS_COPY, offset=page)
        found = torch.frombuffer(mapped, dtype=dtype, count=stop - start, offset=at - page)
        return found.to(as_read(dtype))

    @cached_property
    def _descriptor(self) -> int:
        """The file, open until no tensor reads from it."""
        descriptor = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def read_all(self) -> dict[str, Tensor]:
        """Return all tensors by name."""
        return {name: self.read(name) for name in self.specs}


def as_read(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which values that are stored in another one are read."""
    return torch.float32 if dtype in READ_AS_FLOAT.values() else dtype


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinite values."""
    if not tensor.is_floating_point():
        return True
    # the sum is one pass without a copy
    return math.isfinite(float(tensor.sum())) or bool(torch.isfinite(tensor).all())


def check_finite(tensor: Tensor, name: str, path: Path) -> Tensor:
    """Return `tensor`. Raises WorkFailed if it holds NaN or infinite values."""
    if not is_finite(tensor):
        raise WorkFailed(
            f"tensor {name} of {path} holds NaN or infinite values\n"
            "the run that made it failed; make it again"
        )
    return tensor
