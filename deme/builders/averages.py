"""The models and weights of an average from its settings and inputs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deme.builders.checkpoints import open_checkpoint
from deme.builders.merging import check_searched_models
from deme.merging.averages import Average, Candidates, Mixture, WeightedModels
from deme.merging.plan import MergePlan, plan_merge
from deme.merging.power_profiles import Profile
from deme.runs import AverageSettings, Run, find_snapshots, found_weights, instantiate
from deme.system import BadConfig


def weigh_models(settings: AverageSettings, run: Run) -> WeightedModels:
    """Return the models of an `average` option and their weights. Raises BadConfig."""
    average: Average = instantiate(settings.average)
    runs, search = run.inputs.get("run") or [], run.single_input("search")
    if not runs:
        raise BadConfig("there is nothing to average: inputs.run names no runs")
    if search is not None and not isinstance(average, Mixture):
        raise BadConfig(
            "inputs.search is used only by average=mixture\ntype: average=mixture, or leave it out"
        )
    if len(runs) > 1:
        return average.weigh(Candidates(run.weights_folders("run")))
    snapshots = find_snapshots(runs[0])
    folders = [snapshot.folder for snapshot in snapshots]
    profiles = {
        Profile(length, snapshot.step): place
        for snapshot in snapshots
        for length, place in snapshot.profiles.items()
    }
    candidates = Candidates(folders, [snapshot.step for snapshot in snapshots], profiles)
    if search is not None:
        check_searched_models(search, folders)
        found = found_weights(search)
        candidates = replace(
            candidates, searched=found["weights"], by_name=found["weights_by_name"]
        )
    return average.weigh(candidates)


def open_average(folders: Sequence[Path]) -> MergePlan:
    """Return the plan of summing models of one architecture, of which the first is the base.

    Raises BadConfig with all mismatches that the file headers show.
    """
    models = [open_checkpoint(folder) for folder in folders]
    return plan_merge(models[0], models, "", of_checkpoints=True)
