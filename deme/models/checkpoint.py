"""A UNet's weights on disk: safetensors or pickles, one file or shards, current or older names."""

import re
from pathlib import Path

import torch
from torch import Tensor

from deme.models.pickles import read_pickle
from deme.system import BadConfig, MissingInput, WorkFailed, read_json
from deme.system.tensors import Spec, TensorFile, Tensors, check_finite

NAME = "diffusion_pytorch_model"
POINTER = b"version https://git-lfs"

OLD_NAME = re.compile(r"(.*attentions\.\d+\.)(query|key|value|proj_attn)(\.(?:weight|bias))")
NEW_NAMES = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}  # diffusers 0.18
LINEAR = re.compile(r".*attentions\.\d+\.(to_q|to_k|to_v|to_out\.0)\.weight")


def open_weights(place: Path) -> Tensors:
    """Open the weights in a UNet's folder; tensors are read one at a time, in the file's precision.

    The first of diffusion_pytorch_model.safetensors, its .index.json with the files it names, the only
    variant (.fp16.safetensors), then the same as .bin. Raises MissingInput, BadConfig (several
    variants), WorkFailed (damaged).
    """
    file = _find(place)
    if ".index." not in file.name:
        return CurrentNames(_open(file))
    return CurrentNames(Shards(file))


def _find(place: Path) -> Path:
    for suffix in ("safetensors", "bin"):
        for name in (f"{NAME}.{suffix}", f"{NAME}.{suffix}.index.json"):
            if (place / name).is_file():
                return place / name
        variants = [p for p in place.glob(f"{NAME}.*.{suffix}") if "-of-" not in p.name]
        variants += place.glob(f"{NAME}.{suffix}.index.*.json")
        if len(variants) > 1:
            raise BadConfig(
                f"{place} has several variants of its weights: "
                f"{', '.join(sorted(p.name for p in variants))}\nrename the one to use to {NAME}.{suffix}"
            )
        if variants:
            return variants[0]
    raise MissingInput(
        f"{place / NAME}.safetensors does not exist, nor {NAME}.safetensors.index.json, "
        ".fp16.safetensors or .bin"
    )


def _open(file: Path) -> Tensors:
    if file.is_file():
        with open(file, "rb") as opened:
            if opened.read(len(POINTER)) == POINTER:
                raise MissingInput(
                    f"{file} is a git-lfs pointer, not the file itself\ntype: git lfs pull"
                )
    return TensorFile(file) if file.suffix == ".safetensors" else _unpickled(file)


def _unpickled(path: Path) -> Tensors:
    state = read_pickle(path)
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise WorkFailed(f"{path} is not a file of named tensors")
    return StateDict(path, state)


class StateDict:
    """Tensors in memory, and the file that they come from."""

    def __init__(self, path: Path, state: dict[str, Tensor]) -> None:
        self.path = path
        self._state = state
        self.specs: dict[str, Spec] = {
            name: (tuple(value.shape), value.dtype) for name, value in state.items()
        }

    def read(self, name: str) -> Tensor:
        """Return one tensor. Raises WorkFailed for NaN or infinite values."""
        return check_finite(self._state[name], name, self.path)

    def piece(self, name: str, start: int, stop: int) -> Tensor:
        """Return elements start:stop of the flattened tensor, unchecked."""
        return self._state[name].reshape(-1)[start:stop]


class Shards:
    """Several files, and the index that maps tensors to them. Raises MissingInput, WorkFailed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        index = read_json(path)
        places = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(places, dict):
            raise WorkFailed(
                f"{path} is damaged: it has no weight_map\ncopy it again from its source"
            )
        files = {
            name: _open(path.parent / Path(name).name) for name in sorted(set(places.values()))
        }
        self._files: dict[str, Tensors] = {tensor: files[name] for tensor, name in places.items()}
        missing = [tensor for tensor, file in self._files.items() if tensor not in file.specs]
        if missing:
            raise WorkFailed(
                f"{self._files[missing[0]].path} has no tensor {missing[0]}, which {path.name} "
                "names\n"
                "copy the folder again from its source"
            )
        self.specs: dict[str, Spec] = {
            tensor: file.specs[tensor] for tensor, file in self._files.items()
        }

    def read(self, name: str) -> Tensor:
        """Return one tensor. Raises WorkFailed for NaN or infinite values."""
        return self._files[name].read(name)

    def piece(self, name: str, start: int, stop: int) -> Tensor:
        """Return elements start:stop of the flattened tensor, unchecked."""
        return self._files[name].piece(name, start, stop)


class CurrentNames:
    """Tensors under the current names and shapes of diffusers.

    Before diffusers 0.18 attention layers were called query, key, value and proj_attn, and were 1x1
    convolutions at first.
    """

    def __init__(self, source: Tensors) -> None:
        self.path = source.path
        self._source = source
        self._names = {_current(name): name for name in source.specs}
        self.specs: dict[str, Spec] = {}
        for name, found in self._names.items():
            shape, dtype = source.specs[found]
            flat = LINEAR.fullmatch(name) and len(shape) == 4 and shape[2:] == (1, 1)
            self.specs[name] = (shape[:2] if flat else shape, dtype)

    def read(self, name: str) -> Tensor:
        """Return one tensor. Raises WorkFailed for NaN or infinite values."""
        return self._source.read(self._names[name]).reshape(self.specs[name][0])

    def piece(self, name: str, start: int, stop: int) -> Tensor:
        """Return elements start:stop of the flattened tensor, unchecked."""
        return self._source.piece(self._names[name], start, stop)


def _current(name: str) -> str:
    old = OLD_NAME.fullmatch(name)
    return f"{old[1]}{NEW_NAMES[old[2]]}{old[3]}" if old else name


def load_into(module: torch.nn.Module, file: Tensors, what: str = "its config.json") -> None:
    """Copy the tensors of `file` into the module's own, in its precision.

    Raises WorkFailed unless names and shapes are equal; `what` describes the module in the message.
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
    with torch.no_grad():
        for (
            name,
            value,
        ) in module.state_dict().items():  # one tensor at a time: no second copy in memory
            value.copy_(file.read(name))
