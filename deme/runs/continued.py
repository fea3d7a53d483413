"""Trainings that go on from a finished one: what may differ between the two."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from deme.runs.composed import flat
from deme.runs.identity import identity_hash
from deme.runs.inputs import frozen_config
from deme.runs.run import Run
from deme.runs.run_files import is_run, read_provenance
from deme.system import BadConfig

NEUTRAL = ("cell", "inputs", "logger", "overrides", "paths", "progress", "suite", "swept")


def check_continued(run: Run, source: Path) -> int:
    """Return the number of steps of a finished training that `run` goes on from.

    Raises BadConfig for what is no training, or one of other settings or of as many steps.
    """
    ours, theirs = run.config, frozen_config(source) if is_run(source) else {}
    if theirs.get("stage") != "train":
        raise BadConfig(f"{source} is not a training run\ntype: inputs.continue_from=<run>")
    changed = {**theirs, "num_steps": ours["num_steps"], "inputs": ours["inputs"]}
    made = read_provenance(source)["inputs"]
    before_hashes = _without_itself({name: [*each.values()] for name, each in made.items()})
    now_hashes = _without_itself(run.hashes)
    if identity_hash(changed, "train", before_hashes) != identity_hash(ours, "train", now_hashes):
        before, now = flat(changed), flat(ours)
        keys = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
        named = [key for key in keys if key.partition(".")[0] not in NEUTRAL]
        inputs = sorted(before_hashes.keys() | now_hashes.keys())
        named += [f"inputs.{n}" for n in inputs if before_hashes.get(n) != now_hashes.get(n)]
        raise BadConfig(
            f"{source} was trained with other settings, such as {', '.join(named[:5])}\n"
            "type: the settings of that run, and num_steps=<more>"
        )
    steps: int = theirs["num_steps"]
    if ours["num_steps"] <= steps:
        raise BadConfig(
            f"num_steps={ours['num_steps']} is the total, which includes the {steps} steps of "
            f"{source}\ntype: num_steps={2 * steps}, or another number above {steps}"
        )
    return steps


def _without_itself(hashes: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the hashes of inputs but for the run that a training continues."""
    return {name: [*each] for name, each in hashes.items() if each and name != "continue_from"}
