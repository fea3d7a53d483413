"""Merging a base and 4 experts of the 113.7M UNet from disk to disk, and other ways to do it.

The ways take turns. Random weights in five files of 455 MB, in the page cache. `ours`:
deme.merging.stream.merge_folder, with the checks of its plan and of every number. `torch_files`:
torch.load five times, base + sum w (expert - base), torch.save. `state_dicts`: the same with
safetensors.torch.load_file and save_file. `copy`: reads the five files and writes one of 455 MB in
pieces of 1 MiB. `ours` and `copy` end with an fsync, the others do not.

Every turn is a process of its own, as a merge is (in a process that merges repeatedly, the memory
allocator adapts to it), timed once all is imported: CPU seconds, user and system (one thread), and
wall time, which includes waiting for the disk. Before the clock starts, memory is filled and given
back: in a virtual machine, pages that were not used for a while cost several times as much. Peaks
of resident memory are above what is resident after the imports, from processes of their own.
`state_dicts_over_copy` bounds what can be gained over reading mapped files.

`python benchmarks/merge_disk.py` writes benchmarks/results/merge_disk.json; it needs 6.5 GB in the
folder for temporary files.
"""

import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import safetensors
import torch
from diffusers import UNet2DModel
from record import record
from safetensors.torch import load_file, save_file
from torch import Tensor
from turns import arguments, measure, peaks, summary, take_turns

from deme.builders.checkpoints import open_checkpoint
from deme.merging.combine import Merge
from deme.merging.methods.weighted_sum import weighted_sum
from deme.merging.plan import plan_merge
from deme.merging.stream import merge_folder
from deme.runs import compose_stage
from deme.system import sha256_text, write_json
from deme.system.tensors import Spec, TensorFile, write_stream

WEIGHTS = [0.1, 0.3, 0.5, 0.2]
MODELS = ["base", *(f"expert{i}" for i in range(len(WEIGHTS)))]
FILE = Path("unet", "diffusion_pytorch_model.safetensors")
PICKLE = Path("unet", "diffusion_pytorch_model.bin")
MIB = 1 << 20
MEMORY_FILLED = 1_500_000_000  # bytes: more than any way takes beside mapped files
RATIOS = (
    ("torch_files", "ours"),
    ("state_dicts", "ours"),
    ("ours", "copy"),
    ("state_dicts", "copy"),
)
TARGETS = {"torch_files_over_ours": 8, "ours_over_copy": 1.5, "peak_mb": 64}


def make_models(root: Path) -> None:
    """Write a base and experts near it, with the UNet's names and shapes and random numbers."""
    with torch.device("meta"):
        unet = UNet2DModel(**compose_stage("train", ["model=ddpm_lsun256"])["model"]["unet"])
    specs = {
        name: (tuple(tensor.shape), tensor.dtype) for name, tensor in unet.state_dict().items()
    }
    for index, model in enumerate(MODELS):
        write_stream(root / model / FILE, specs, random_tensors(specs, index))
        torch.save(load_file(root / model / FILE), root / model / PICKLE)
        write_json(root / model / "unet" / "config.json", {"_class_name": "UNet2DModel"})


def random_tensors(specs: dict[str, Spec], index: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of the base, index 0, or of an expert."""
    of_base, of_expert = torch.Generator().manual_seed(0), torch.Generator().manual_seed(index)
    for name, (shape, _) in specs.items():
        base = 0.05 * torch.randn(shape, generator=of_base)
        yield name, base + 0.001 * torch.randn(shape, generator=of_expert) if index else base


def ours(root: Path, out: Path) -> None:
    models = [open_checkpoint(root / model) for model in MODELS]
    plan = plan_merge(models[0], models[1:], sha256_text("base"))
    merge_folder(plan, Merge(weighted_sum, len(WEIGHTS), WEIGHTS), out)


def state_dicts(root: Path, out: Path) -> None:
    base, *experts = (load_file(root / model / FILE) for model in MODELS)

    def merged(name: str) -> Tensor:
        return base[name] + sum(
            w * (expert[name] - base[name]) for w, expert in zip(WEIGHTS, experts, strict=True)
        )

    out.joinpath(FILE).parent.mkdir(parents=True, exist_ok=True)
    save_file({name: merged(name) for name in base}, out / FILE)


def torch_files(root: Path, out: Path) -> None:
    out.joinpath(PICKLE).parent.mkdir(parents=True, exist_ok=True)
    base, *experts = (torch.load(root / model / PICKLE, weights_only=True) for model in MODELS)
    torch.save(
        {
            n: b + sum(w * (e[n] - b) for w, e in zip(WEIGHTS, experts, strict=True))
            for n, b in base.items()
        },
        out / PICKLE,
    )


def copy(root: Path, out: Path) -> None:
    piece = bytearray(MIB)
    out.joinpath(FILE).parent.mkdir(parents=True, exist_ok=True)
    with open(out / FILE, "wb") as written:
        for model in MODELS:
            with open(root / model / FILE, "rb") as file:
                while count := file.readinto(piece):
                    if model == "base":
                        written.write(memoryview(piece)[:count])
        written.flush()
        os.fsync(written.fileno())


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "ours": ours,
    "state_dicts": state_dicts,
    "torch_files": torch_files,
    "copy": copy,
}


def largest_difference(root: Path) -> float:
    one, other = (TensorFile(root / way / FILE) for way in ("ours", "state_dicts"))
    return max(float((one.read(name) - other.read(name)).abs().max()) for name in one.specs)


def main() -> None:
    a = arguments(__doc__, list(WAYS))
    if a.way:
        for file in (FILE, PICKLE):  # what an earlier turn wrote
            (a.root / a.way / file).unlink(missing_ok=True)
        measure(partial(WAYS[a.way], a.root, a.root / a.way), MEMORY_FILLED, a.peak)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_models(root)
        size = (root / "base" / FILE).stat().st_size
        rounds = take_turns(list(WAYS), root, a.repeats)
        difference = largest_difference(root)
        memory = peaks(list(WAYS), root)
    result = {
        "model": "113.7M UNet",
        "experts": len(WEIGHTS),
        "file_mb": round(size / 1e6),
        "repeats": len(rounds),
        **summary(rounds, RATIOS),
        "peak_mb_above_imports": memory,
        "targets": TARGETS,
        "largest_difference": difference,
        "torch": torch.__version__,
        "safetensors": safetensors.__version__,
        "threads": 1,
        "machine": platform.machine(),
    }
    record("merge_disk", result)


if __name__ == "__main__":
    main()
