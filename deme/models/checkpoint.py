"""A UNet's weights on disk: safetensors or pickles, one file or shards, current or older names."""

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from deme.models.layout import ShardIndex
from deme.system import (
    COPY_AGAIN,
    BadConfig,
    MissingInput,
    WorkFailed,
    first_line,
    logger,
    read_json,
)
from deme.system.hugging_face import variant_of
from deme.system.tensors import DTYPES, Spec, TensorFile, Tensors, as_read, check_finite, is_finite

NAME = "diffusion_pytorch_model"
# where torch names what it refuses
REFUSED = re.compile(r"WeightsUnpickler error:\s*(.+)|^(Trying to load .+)", re.MULTILINE)
MIN_BOMB = 2**24  # bytes; what is packed more than MAX_EXPANSION times and larger is not unpacked
MAX_EXPANSION = 4
POINTER = b"version https://git-lfs"

OLD_NAME = re.compile(r"(.*attentions\.\d+\.)(query|key|value|proj_attn)(\.(?:weight|bias))")
NEW_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
WRAPPED = re.compile(r"(?:module\.|_orig_mod\.)+")  # of DataParallel, torch.compile
VALUES = re.compile(r"(^|\.)(weight|bias)$")
LINEAR = re.compile(r".*attentions\.\d+\.(to_q|to_k|to_v|to_out\.0)\.weight")


def open_weights(place: Path) -> Tensors:
    """Open the weights in a UNet's folder; tensors are read one at a time, in the file's precision.

    The first of diffusion_pytorch_model.safetensors, its .index.json with the files it names, the
    only variant (.fp16.safetensors), then the same as .bin. Raises MissingInput, BadConfig (several
    variants), WorkFailed (damaged).
    """
    path = _find(place)
    if ".index." in path.name:
        return CurrentNames(path, _shards(path))
    file = open_tensors(path)
    return CurrentNames(path, dict.fromkeys(file.specs, file))


def _find(place: Path) -> Path:
    for suffix in ("safetensors", "bin"):
        variant = variant_of(place, f"{NAME}*.{suffix}*")
        middle = f".{variant}" if variant else ""
        for name in (f"{NAME}{middle}.{suffix}", f"{NAME}.{suffix}.index{middle}.json"):
            if (place / name).is_file():
                return place / name
    if (place / "model.safetensors").is_file() or any(place.glob("*.gguf")):
        raise BadConfig(
            f"{place} holds {', '.join(sorted(p.name for p in place.glob('model*.*')))}; "
            f"the weights of diffusers' networks are in {NAME}.safetensors"
        )
    raise MissingInput(
        f"{place / NAME}.safetensors does not exist, nor {NAME}.safetensors.index.json, "
        ".fp16.safetensors or .bin"
    )


def open_tensors(file: Path) -> Tensors:
    """Open a file of named tensors, safetensors or a pickle. Raises MissingInput, WorkFailed."""
    if file.is_file():
        with open(file, "rb") as opened:
            if opened.read(len(POINTER)) == POINTER:
                raise MissingInput(
                    f"{file} is a git-lfs pointer, not the file itself\ntype: git lfs pull"
                )
    if file.suffix == ".safetensors":
        return TensorFile(file)
    state = read_pickle(file)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WorkFailed(f"{file} is not a file of named tensors")
    for name, tensor in state.items():
        if reason := _unusable(tensor):
            raise WorkFailed(
                f"tensor {name} of {file} {reason}\nsave the plain values, such as in float16"
            )
    return StateDict(file, {str(name): tensor for name, tensor in state.items()})


def _unusable(tensor: Tensor) -> str | None:
    """Return why a tensor of a pickle has no plain values, if it has none."""
    if tensor.is_meta:
        return "is a meta tensor, which has a shape and no values"
    if tensor.is_quantized or tensor.layout is not torch.strided:
        return f"is {'quantized' if tensor.is_quantized else 'sparse'} ({tensor.dtype})"
    return None if tensor.dtype in DTYPES.values() else f"is of type {tensor.dtype}"


def _shards(path: Path) -> dict[str, Tensors]:
    """Return the file of each tensor that an index names. Raises MissingInput, WorkFailed."""
    places = read_json(path, ShardIndex, COPY_AGAIN)["weight_map"]
    files = {
        name: open_tensors(path.parent / Path(name).name) for name in sorted(set(places.values()))
    }
    for tensor, name in places.items():
        if tensor not in files[name].specs:
            raise WorkFailed(
                f"{files[name].path} has no tensor {tensor}, which {path.name} names: the two are "
                "of different models\ncopy both from one source"
            )
    return {tensor: files[name] for tensor, name in places.items()}


def _is_archive(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # one that is damaged
        return True


def read_pickle(path: Path) -> object:
    """Return what a file of `torch.save` holds, and run no code that it holds.

    Tensors stay on disk until they are used. Raises MissingInput, WorkFailed.
    """
    if not path.is_file():
        raise MissingInput(f"{path} does not exist")
    mapped = _is_archive(path)  # torch before 1.6 wrote other files
    try:
        if mapped:
            _check_expansion(path)
        with warnings.catch_warnings():
            # of unusual pickle protocols, just before they are refused
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except UnpicklingError as error:
        found = REFUSED.search(str(error))
        reason = (found[1] or found[2] if found else first_line(error)).split(". ")[0]
        raise WorkFailed(
            f"{path} holds more than tensors, which torch does not read safely: {reason}\n"
            "where you trust it, save its state dict alone, with torch.save or as .safetensors, "
            "and give that"
        ) from error
    except Exception as error:  # whatever a damaged file makes of the unpickler
        has_reason = isinstance(error, RuntimeError)
        reason = first_line(error).partition(". ")[0] if has_reason else type(error).__name__
        raise WorkFailed(
            f"{path} is damaged, or no file that torch.save wrote: {reason}\n{COPY_AGAIN}"
        ) from error


def _check_expansion(path: Path) -> None:
    """Raise RuntimeError for an archive that is far larger when it is unpacked.

    torch.save packs nothing.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > max(MIN_BOMB, MAX_EXPANSION * path.stat().st_size):
        raise RuntimeError(f"its members have {unpacked:,} bytes when they are unpacked")


class StateDict:
    """Tensors in memory, and the file that they come from."""

    def __init__(self, path: Path, state: dict[str, Tensor]) -> None:
        state = {name: value.to(as_read(value.dtype)) for name, value in state.items()}
        self.path, self._state = path, state
        self.specs: dict[str, Spec] = {n: (tuple(v.shape), v.dtype) for n, v in state.items()}

    def read(self, name: str) -> Tensor:
        """Return one tensor. Raises WorkFailed for NaN or infinite values."""
        return check_finite(self._state[name], name, self.path)

    def piece(self, name: str, start: int, stop: int) -> Tensor:
        """Return elements start:stop of the flattened tensor, unchecked."""
        return self._state[name].reshape(-1)[start:stop]


class CurrentNames:
    """Tensors of one or several files, under the current names and shapes of diffusers.

    Before diffusers 0.18 attention layers were called query, key, value and proj_attn, and were 1x1
    convolutions at first. What torch's wrappers write in front of all names is left out. Raises
    WorkFailed for weights that are no floating point numbers.
    """

    def __init__(self, path: Path, files: Mapping[str, Tensors]) -> None:
        self.path = path
        self.specs: dict[str, Spec] = {}
        self._found: dict[str, tuple[Tensors, str]] = {}  # the file of a tensor and its name in it
        wrapped = {match[0] for name in files if (match := WRAPPED.match(name))}
        prefix = wrapped.pop() if len(wrapped) == 1 else ""
        if prefix and all(name.startswith(prefix) for name in files):
            logger.info("%s: %s is left out at the start of all names", path, prefix)
        else:
            prefix = ""
        for found, file in files.items():
            old = OLD_NAME.fullmatch(found.removeprefix(prefix))
            name = f"{old[1]}{NEW_NAMES[old[2]]}{old[3]}" if old else found.removeprefix(prefix)
            shape, dtype = file.specs[found]
            if dtype.is_complex or (VALUES.search(name) and not dtype.is_floating_point):
                kind = str(dtype).removeprefix("torch.")
                raise WorkFailed(
                    f"tensor {found} of {file.path} is {kind}, and a network's weights are numbers "
                    "in floating point\nquantized weights: save them in float16 first"
                )
            flat = LINEAR.fullmatch(name) and len(shape) == 4 and shape[2:] == (1, 1)
            self.specs[name] = (shape[:2] if flat else shape, dtype)
            self._found[name] = file, found

    def read(self, name: str) -> Tensor:
        """Return one tensor. Raises WorkFailed for NaN or infinite values."""
        file, found = self._found[name]
        return file.read(found).reshape(self.specs[name][0])

    def piece(self, name: str, start: int, stop: int) -> Tensor:
        """Return elements start:stop of the flattened tensor, unchecked."""
        file, found = self._found[name]
        return file.piece(found, start, stop)


def load_into(module: torch.nn.Module, file: Tensors, what: str = "its config.json") -> None:
    """Copy the tensors of `file` into the module's own, in its precision.

    Raises WorkFailed unless names and shapes are equal (`what` describes the module in the message)
    and the values fit its precision.
    """
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {name: shape for name, (shape, _) in file.specs.items()}
    if expected != found:
        wrong = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        shown = ", ".join(
            f"{n} (expected {expected.get(n, 'none')}, found {found.get(n, 'none')})"
            for n in wrong[:3]
        )
        raise WorkFailed(
            f"{file.path} does not fit {what}: {len(wrong)} tensors differ, first {shown}"
        )
    with torch.no_grad():  # one tensor at a time: no second copy in memory
        for name, value in module.state_dict().items():
            given = file.read(name)
            if not is_finite(value.copy_(given)):
                raise WorkFailed(
                    f"tensor {name} of {file.path} has values up to {float(given.abs().max()):g}, "
                    f"which overflow {str(value.dtype).removeprefix('torch.')}"
                )
