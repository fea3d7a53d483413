"""Merging four LoRAs of rank 16 of a transformer of the shapes of SD3-medium into one of rank 16.

Random factors in four files. The ways take turns, each in a process of its own (see merge_disk.py):
`ours`: deme's merge of adapters, from disk to disk, which works on the factors. `whole`: makes the
whole change of each layer, sum w B A, and its SVD with torch.linalg.svd. `randomized`: the same
with torch.svd_lowrank, which is an approximation. Times are of one of the network's blocks
only, since `whole` takes half an hour for all 24; memory is that of all 24 blocks, of
`ours` alone. `largest_error`: of a layer's change, over the error of the best change of this rank
(Eckart and Young), which a float64 SVD says.

`python benchmarks/lora_merge.py` writes benchmarks/results/lora_merge.json.
"""

import json
import platform
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from diffusers import SD3Transformer2DModel
from record import record
from safetensors.torch import save_file
from torch import Tensor
from turns import arguments, measure, peaks, summary, take_turns

from deme.builders.adapters import merge_adapters
from deme.merging.combine import Merge
from deme.merging.methods.weighted_sum import weighted_sum
from deme.merging.plan import Checkpoint, MergePlan
from deme.models.adapter import LAYERS
from deme.models.adapter_files import WEIGHTS, write_factors
from deme.models.adapter_tensors import AdaptedTensors, AdapterFile, delta_weight
from deme.models.families.sd3 import SD3Model
from deme.system.tensors import Spec, TensorFile

RANK, EXPERTS, BLOCKS = 16, 4, 24
MERGE_WEIGHTS = [0.4, 0.3, 0.2, 0.3]
PART = Path("transformer", "diffusion_pytorch_model.safetensors")
MEMORY_FILLED = 300_000_000  # bytes
RATIOS = (("whole", "ours"), ("randomized", "ours"))
TARGETS = {"whole_over_ours": 20, "peak_mb": "1.5 x largest change + LoRAs"}


class Header:
    """The shapes of a base whose weights are never read."""

    def __init__(self, specs: dict[str, Spec]) -> None:
        self.path, self.specs = Path("base"), specs

    def read(self, name: str) -> NoReturn:
        raise AssertionError(f"{name} of the base was read")

    def piece(self, name: str, start: int, stop: int) -> NoReturn:
        raise AssertionError(f"{name}[{start}:{stop}] of the base was read")


def shapes(blocks: int) -> dict[str, tuple[int, int]]:
    """Return the layers that a LoRA of Stable Diffusion 3 changes by default, with their shapes."""
    with torch.device("meta"):
        network = SD3Transformer2DModel(
            sample_size=128, num_layers=blocks, attention_head_dim=64, num_attention_heads=24,
            joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048,
            in_channels=16, out_channels=16, pos_embed_max_size=192,
        )  # fmt: skip
    return {
        name: (layer.out_features, layer.in_features)
        for name, layer in network.named_modules()
        if isinstance(layer, LAYERS) and name.endswith(SD3Model.adapter_targets)
    }


def make_loras(root: Path, blocks: int) -> None:
    layers = shapes(blocks)
    for index in range(EXPERTS):
        draw = torch.Generator().manual_seed(index)
        state = {}
        for name, (out, into) in layers.items():
            state[f"{name}.lora_A.weight"] = torch.randn(RANK, into, generator=draw) / into**0.5
            state[f"{name}.lora_B.weight"] = 0.01 * torch.randn(out, RANK, generator=draw)
        (root / str(index)).mkdir(parents=True)
        write_factors(root / str(index), "transformer", state)
    layer_shapes = {name: [out, into] for name, (out, into) in layers.items()}
    (root / "layers.json").write_text(json.dumps(layer_shapes))


def adapters(root: Path) -> list[AdapterFile]:
    files = (TensorFile(root / str(index) / WEIGHTS) for index in range(EXPERTS))
    return [AdapterFile(file, "transformer") for file in files]


def ours(root: Path) -> None:
    layers = json.loads((root / "layers.json").read_text())
    header = Header({f"{n}.weight": ((o, i), torch.float32) for n, (o, i) in layers.items()})
    base = Checkpoint(root, {PART: header}, {}, {})
    models = [
        Checkpoint(root / str(i), {PART: AdaptedTensors(header, adapter)}, {}, {})
        for i, adapter in enumerate(adapters(root))
    ]
    plan = MergePlan(base, tuple(models))
    (root / "ours").mkdir(exist_ok=True)
    merge_adapters(plan, Merge(weighted_sum, EXPERTS, MERGE_WEIGHTS), "svd", None, root / "ours")


def changes(root: Path, dtype: torch.dtype = torch.float32) -> Iterator[tuple[str, Tensor]]:
    """Yield the merged change of every layer, as a whole."""
    experts = adapters(root)
    for layer in experts[0].layers:
        parts = [delta_weight(expert.factors(layer, dtype)) for expert in experts]
        yield layer, sum(w * part for w, part in zip(MERGE_WEIGHTS, parts, strict=True))  # type: ignore[misc]


def whole(root: Path, randomized: bool = False) -> None:
    found: dict[str, Tensor] = {}
    for layer, change in changes(root):
        if randomized:
            left, values, right = torch.svd_lowrank(change, q=RANK * EXPERTS)
        else:
            left, values, vh = torch.linalg.svd(change, full_matrices=False)
            right = vh.T
        root_of = values[:RANK].sqrt()
        found[f"{layer}.lora_A.weight"] = (right[:, :RANK] * root_of).T.contiguous()
        found[f"{layer}.lora_B.weight"] = (left[:, :RANK] * root_of).contiguous()
    (root / "whole").mkdir(exist_ok=True)
    save_file(found, root / "whole" / WEIGHTS)


WAYS: dict[str, Callable[[Path], None]] = {
    "ours": ours,
    "whole": whole,
    "randomized": partial(whole, randomized=True),
}


def largest_error(root: Path) -> float:
    """Return the error of `ours` over the smallest that is possible, the largest of all layers."""
    merged = AdapterFile(TensorFile(root / "ours" / WEIGHTS), "transformer")
    found = []
    for layer, change in changes(root, torch.float64):
        best = float(torch.linalg.svdvals(change)[RANK:].square().sum().sqrt())
        error = change - delta_weight(merged.factors(layer, torch.float64))
        found.append(float(error.norm()) / best)
    return max(found)


def main() -> None:
    a = arguments(__doc__, list(WAYS))
    if a.way:
        measure(partial(WAYS[a.way], a.root), MEMORY_FILLED, a.peak)
        return
    with tempfile.TemporaryDirectory() as folder:
        few, all_blocks = Path(folder, "few"), Path(folder, "all")
        make_loras(few, 1)
        make_loras(all_blocks, BLOCKS)
        rounds = take_turns(list(WAYS), few, a.repeats)
        error = largest_error(few)
        memory = peaks(["ours"], all_blocks)
        sizes = [(all_blocks / str(i) / WEIGHTS).stat().st_size for i in range(EXPERTS)]
    largest = max(out * into * 4 for out, into in shapes(1).values())
    bound = (1.5 * largest + sum(sizes)) / 2**20
    result = {
        "model": "shapes of SD3-medium",
        "experts": EXPERTS,
        "rank": RANK,
        "layers": {"timed": len(shapes(1)), "of memory": len(shapes(BLOCKS))},
        "repeats": len(rounds),
        **summary(rounds, RATIOS),
        "largest_error_over_best": round(error, 6),
        "peak_mb_above_imports": memory["ours"],
        "largest_change_mb": round(largest / 2**20, 1),
        "loras_mb": round(sum(sizes) / 2**20, 1),
        "bound_mb": round(bound, 1),
        "targets": TARGETS,
        "torch": torch.__version__,
        "threads": 1,
        "machine": platform.machine(),
    }
    record("lora_merge", result)


if __name__ == "__main__":
    main()
