"""What a training writes: its weights at the end, and snapshots on the way."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from deme.runs import PROFILE, snapshot_folder
from deme.system import EMA_WEIGHTS, files
from deme.training.module import DiffusionModule


def write_weights(
    module: DiffusionModule, kinds: Iterable[str], folder: Path, about: Mapping[str, object]
) -> None:
    """Write the weights of these kinds, raw or ema, below a run directory.

    `about` is what deme.json says of all of them. All processes of a group call this function, and
    the first one writes.
    """
    if not module.is_sharded:
        module.model.cpu()
    for kind in kinds:
        averaged = kind == EMA_WEIGHTS
        said = {**about, "ema": averaged}
        state = module.weights(averaged)
        if module.is_first:
            module.model.save(folder / "weights" / kind, state, said, links=True)


def write_snapshot(
    module: DiffusionModule, step: int, folder: Path, about: Mapping[str, object]
) -> None:
    """Write the raw weights of a step, and the power-function averages up to it.

    All processes of a group call this function, and the first one writes.
    """
    weights, profiles = module.weights(averaged=False), module.profiles()

    def fill(place: Path) -> None:
        raw = {**about, "ema": False, "step": step}
        module.model.write(place, weights, raw, links=True)
        for length, state in profiles.items():
            said = {**raw, "ema": True, "average": f"power function of length {length:g}"}
            module.model.write(place / f"{PROFILE}{length:g}", state, said, links=True)

    if module.is_first:
        files.write_folder(snapshot_folder(folder, step), fill)
