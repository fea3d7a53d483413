"""safetensors files: written in a stream, read tensor by tensor, checked before they are believed."""

import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deme.errors import MissingInput, WorkFailed
from deme.files import atomic

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
}
DTYPES = {name: dtype for dtype, name in _NAMES.items()}

Spec = tuple[tuple[int, ...], torch.dtype]


class Tensors(Protocol):
    """Named tensors on disk: their shapes and types, and one at a time themselves. `path` is what an error names."""

    path: Path
    specs: dict[str, Spec]

    def read(self, name: str) -> Tensor: ...


def write_stream(path: Path, specs: Mapping[str, Spec], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write `tensors` in the order of `specs`, one in memory at a time; whole under `path` or not at all."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, dtype) in specs.items():
        size = math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (expected, spec), (name, tensor) in zip(specs.items(), tensors, strict=True):
            if name != expected or spec != (tuple(tensor.shape), tensor.dtype):
                raise ValueError(f"tensor {name} does not match the header entry {expected} {spec}")
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().tobytes())


def save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` to a safetensors file, sorted by name."""
    names = sorted(tensors)
    write_stream(
        path, {n: (tuple(tensors[n].shape), tensors[n].dtype) for n in names}, ((n, tensors[n]) for n in names)
    )


class TensorFile:
    """A safetensors file whose tensors are read one at a time. Raises MissingInput or WorkFailed when opened.

    Plain reads, not a mapping of the file: whoever reads tensor by tensor holds one in memory.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise MissingInput(f"{path} does not exist")
        self.path = path
        try:
            with safe_open(path, framework="pt") as file:  # checks the header
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
                specs = {n: (tuple(s.get_shape()), DTYPES[s.get_dtype()]) for n, s in slices.items()}
        except (SafetensorError, OSError) as error:
            raise self._damaged(error) from error
        self.specs: dict[str, Spec] = specs
        with open(path, "rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(size))
        self._starts: dict[str, int] = {name: 8 + size + header[name]["data_offsets"][0] for name in specs}

    def _damaged(self, why: object) -> WorkFailed:
        return WorkFailed(f"{self.path} is damaged: {why}\nmake it again, or copy it again from where it came")

    def read(self, name: str) -> Tensor:
        """Return one tensor; NaN or infinite values are refused."""
        shape, dtype = self.specs[name]
        tensor = torch.empty(shape, dtype=dtype)
        if tensor.numel():
            place = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
            with open(self.path, "rb", buffering=0) as file:
                file.seek(self._starts[name])
                if _fill(file, place) < len(place):
                    raise self._damaged(f"tensor {name} is cut off")
        return check_finite(tensor, name, self.path)

    def read_all(self) -> dict[str, Tensor]:
        """Return all tensors by name."""
        return {name: self.read(name) for name in self.specs}


def check_finite(tensor: Tensor, name: str, path: Path) -> Tensor:
    """Return `tensor`. Raises WorkFailed if it holds NaN or infinite values."""
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise WorkFailed(
            f"tensor {name} of {path} holds NaN or infinite values\nthe run that made it failed; make it again"
        )
    return tensor


def _fill(file: io.RawIOBase, place: memoryview) -> int:
    """Read until `place` is full or the file ends; return how many bytes came."""
    done = 0
    while done < len(place) and (count := file.readinto(place[done:])):
        done += count
    return done
