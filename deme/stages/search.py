"""`deme search`: score merge weights on the training images with seeds that no report uses; every score is kept."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deme import files
from deme.errors import BadConfig
from deme.inputs import content_hash
from deme.runs import Run, check_numbers, say


def run(config: dict[str, Any]) -> Path:
    """Search unless it is done; return the run directory."""
    check_numbers(config)
    if config["num_images"] < 2:
        raise BadConfig(f"the distance needs at least 2 images, num_images={config['num_images']} were asked for")
    return Run.planned(config).execute(_search)


def _search(run: Run) -> None:
    from deme.config import make
    from deme.merging.plan import plan_merge
    from deme.stages.common import base_folder, experts_of

    experts = experts_of(run)
    base = base_folder(run.config)
    plan_merge(base, [expert.folder for expert in experts], content_hash(base))
    search = make(run.config["search"])
    total = search.count(len(experts))
    metric, label, objective = _objective(run, experts)

    journal = run.path / "evaluations.jsonl"
    stored = files.read_jsonl(journal)
    files.write_jsonl(journal, stored)
    began, fresh = time.monotonic(), 0
    for number, weights in enumerate(search.propose(len(experts))):
        if number < len(stored):
            continue
        score = objective(list(weights))
        stored.append({"weights": list(weights), "score": score})
        files.append_line(journal, json.dumps(stored[-1]))
        fresh += 1
        if (number + 1) % max(1, total // 10) == 0:
            left = (time.monotonic() - began) / fresh * (total - number - 1)
            best = min(stored, key=lambda row: row["score"])
            say(
                f"  {run.path.name}: {number + 1}/{total} candidates, best {best['score']:.4f} at {best['weights']}, {left:.0f} s left"
            )
    best = min(stored, key=lambda row: row["score"])
    ranges = [[expert.range.low, expert.range.high] for expert in experts]
    files.write_json(run.path / "best.json", {"weights": best["weights"], "score": best["score"], "ranges": ranges})
    files.write_json(
        run.path / "metrics.json",
        {
            "cell": {"suite": run.config["suite"], **run.config["cell"]},
            "metrics": {
                metric: {
                    "value": best["score"],
                    **label,
                    "weights": best["weights"],
                    "evaluations": len(stored),
                }
            },
        },
    )
    run.log(f"searched {len(stored)} candidates, best {metric} {best['score']:.4f} at {best['weights']}: {run.path}")


def _objective(run: Run, experts: Any) -> tuple[str, dict[str, Any], Callable[[list[float]], float]]:
    """Return a name, its label, and weights -> Frechet distance of the merged model's images to the training images, from shared noise."""
    from deme.config import make
    from deme.merging.task_vectors import merge_into
    from deme.metrics.frechet import FrechetDistance
    from deme.metrics.statistics import Statistics
    from deme.models.unconditional import load
    from deme.sampling.generate import generate
    from deme.stages.common import Compute, base_folder
    from deme.stages.extractors import extractors_of, reference_of
    from deme.stages.labels import distance_labels
    from deme.stages.merge import combine_of

    config = run.config
    compute = Compute.of(config)
    extractors = extractors_of(config, compute.device)
    if len(extractors) != 1:
        raise BadConfig(
            f"deme search scores generated images by one feature extractor; metrics.features names {len(extractors)}"
        )
    (features,) = extractors
    model = load(str(experts[0].folder)).to(compute.device)
    network = compute.network(model)
    target = model.state_dict()
    base = load(str(base_folder(config)))
    if model.projections is not None:
        base.add_projections()
    states = [load(str(expert.folder)).to(compute.device).state_dict() for expert in experts]
    base_state = base.to(compute.device).state_dict()
    # held-out images are for the report, and so is what a statistics file may be of
    training = {**config, "metrics": {**config["metrics"], "reference": "train", "statistics": {}}}
    reference = reference_of(training, make(config["data"]), features)
    distance = FrechetDistance(reference.statistics, compute.device)
    sampler = make(config["sampler"])

    def objective(weights: list[float]) -> float:
        merge_into(target, combine_of(config, weights), states, base_state)
        statistics = Statistics()
        for pixels in generate(
            network,
            model.scheduler_config,
            model.image_shape,
            sampler,
            config["sample_seed"],
            range(config["num_images"]),
            config["batch_size"],
            compute.device,
        ):
            statistics.update(features(pixels))
        return distance(statistics)

    name = features.frechet_name
    return name, distance_labels(config, features, reference, config["num_images"])[name], objective
