"""`deme search`: score merge weights on the training images with seeds that no report uses; every score is kept."""

import json
import time
from pathlib import Path
from typing import Any

from deme import files
from deme.checks import check_numbers
from deme.errors import BadConfig
from deme.inputs import content_hash
from deme.runs import Run, say


def run(config: dict[str, Any]) -> Path:
    """Search unless it is done; return the run directory."""
    check_numbers(config)
    if config["num_images"] < 2:
        raise BadConfig(f"the distance needs at least 2 images, num_images={config['num_images']} were asked for")
    return Run.planned(config).execute(_search)


def _search(run: Run) -> None:
    from deme.config import make
    from deme.merging.plan import plan_merge
    from deme.stages.common import base_folder, experts_of, opener
    from deme.stages.objective import objective_of

    experts = experts_of(run)
    base = base_folder(run.config)
    plan_merge(base, opener(base), [expert.folder for expert in experts], content_hash(base))
    search = make(run.config["search"])
    total = search.count(len(experts))
    metric, label, objective = objective_of(run, experts)

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
