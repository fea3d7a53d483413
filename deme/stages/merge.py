"""`deme merge`: put experts back together in parameter space."""

from pathlib import Path
from typing import Any

from deme import files
from deme.errors import BadConfig
from deme.inputs import content_hash, found_weights
from deme.runs import Run


def run(config: dict[str, Any]) -> Path:
    """Merge unless it is done; return the run directory."""
    return Run.planned(config).execute(_merge)


def weights_of(config: dict[str, Any], search: Path | None, num_experts: int) -> list[float]:
    """Return the merge weights: a search's best, equal ones, or those given. Raises BadConfig."""
    from deme.merging.plan import check_weights

    given = config["merge"].get("weights")
    if search is not None:
        given = found_weights(search)
    elif given == "uniform":
        given = [1 / num_experts] * num_experts
    if not isinstance(given, list) or not all(isinstance(w, (int, float)) for w in given):
        raise BadConfig(f"merge.weights must be 'uniform' or a list of numbers, got {given!r}")
    check_weights(given, num_experts)
    return [float(w) for w in given]


def combine_of(config: dict[str, Any], weights: list[float]) -> Any:
    """Return the merge method of the config as a function of (experts, base)."""
    from deme.config import bind

    return bind({**config["merge"], "weights": weights})


def _merge(run: Run) -> None:
    from deme.merging.plan import plan_merge
    from deme.merging.task_vectors import merge_folder
    from deme.stages.common import base_folder, experts_of, opener

    base = base_folder(run.config)
    plan = plan_merge(base, opener(base), [expert.folder for expert in experts_of(run)], content_hash(base))
    weights = weights_of(run.config, run.one("search"), len(plan.experts))

    def fill(folder: Path) -> None:
        merge_folder(plan, combine_of(run.config, weights), folder)
        about = {
            "range": None,
            "num_timesteps": plan.experts[0].num_timesteps,
            "base": plan.experts[0].base,
            "ema": files.read_json(plan.experts[0].folder / "deme.json").get("ema"),
            "weights": weights,
        }
        files.write_json(folder / "deme.json", about)

    files.write_folder(run.path / "weights" / "merged", fill)
    run.log(f"merged {len(weights)} experts with weights {weights}: {run.path}")
