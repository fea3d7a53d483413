"""How well generated images show their prompts: of all, of each category of prompts, and of the phrases that prompts single out."""

from typing import Any

import torch
from torch import Tensor

from deme import tensors
from deme.config import make, score_specs
from deme.data.prompts import Prompts
from deme.errors import BadConfig
from deme.metrics.bootstrap import resample_counts
from deme.metrics.shards import FeatureShards
from deme.metrics.text_score import TextScore
from deme.runs import Run

Scored = dict[str, tuple[Tensor, dict[str, Any]]]  # metric -> score of each image, and what stands beside the number


def scores_of(config: dict[str, Any], device: str = "cpu") -> list[TextScore]:
    """Return the scores of `metrics.scores`. Raises BadConfig for two that would share the name of a metric."""
    found: list[TextScore] = [make(spec).to(device) for spec in score_specs(config["metrics"]).values()]
    names = [name for score in found for name in (score.suffix, score.score_name)]
    if any(names.count(score.score_name) > 1 + (score.suffix == score.score_name) for score in found):
        raise BadConfig(f"two scores of metrics.scores measure the same: {', '.join(s.score_name for s in found)}")
    return found


def scored(score: TextScore, features: Tensor, prompts: Prompts, total: int) -> Scored:
    """Return the scores of images, of their features [total, dimension], for every metric that the prompts make."""
    texts = [prompts[i].text for i in range(total)]
    values = score.score(features, texts)
    label = {
        "n": total,
        "reference": f"{prompts.name} ({prompts.content_hash()[:8]})",
        "better": "higher",
        "implementation": f"{score.name} (weights {score.weights[:12]})",
    }
    found: Scored = {score.score_name: (values, {**label, "truncated": score.truncated(texts)})}
    for category in sorted({prompts[i].category for i in range(total)} - {None}, key=str):
        rows = [i for i in range(total) if prompts[i].category == category]
        found[f"{score.score_name}/{category}"] = (values[rows], {**label, "n": len(rows)})
    for phrase in dict.fromkeys(prompts[i].phrase for i in range(total) if prompts[i].phrase):
        rows = [i for i in range(total) if prompts[i].phrase == phrase]
        alone = score.score(features[rows], [str(phrase)] * len(rows))
        found[f"{score.score_name}/{phrase}"] = (alone, {**label, "n": len(rows), "text": phrase})
    return found


def measure_scores(
    run: Run, shards: FeatureShards, scores: list[TextScore], prompts: Prompts
) -> tuple[dict[str, dict[str, Any]], dict[str, list[float]]]:
    """Return the metrics of all scores and their bootstrap replicates; every image's score is kept in moments/."""
    metrics: dict[str, dict[str, Any]] = {}
    replicates: dict[str, list[float]] = {}
    seed, count = run.config["sample_seed"], run.config["metrics"]["replicates"]
    for score in scores:
        features = torch.cat(list(shards.read(score.suffix)))
        found = scored(score, features, prompts, shards.total)
        tensors.save(
            run.path / "moments" / f"{score.suffix}_scores.safetensors", {"scores": found[score.score_name][0]}
        )
        for name, (values, label) in found.items():
            metrics[name] = {"value": score.mean(values), **label}
            replicates[name] = [
                float(resample_counts(seed, r, len(values)).double() @ values) / len(values) for r in range(count)
            ]
    return metrics, replicates
