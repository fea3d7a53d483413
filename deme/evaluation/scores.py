"""How well generated images show their prompts: of all, of each category of prompts, and of the phrases that prompts single out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deme.data.prompts import Prompts
from deme.metrics.bootstrap import resampled_means
from deme.metrics.shards import FeatureShards
from deme.metrics.text_score import TextScore
from deme.runs.run import Run
from deme.system import tensors
from deme.system.errors import BadConfig


@dataclass(frozen=True)
class Part:
    """A metric: the images `rows` of an evaluation, each with its text, and what stands beside the number.

    Images of one prompt are alike, so its interval resamples prompts, not images: `groups` [len(rows)] tells them apart.
    """

    name: str
    rows: list[int]
    texts: list[str]
    groups: Tensor
    label: dict[str, Any]


def parts_of(score: TextScore, prompts: Prompts, total: int) -> list[Part]:
    """Return the metrics of a score: of all images first, then of each category and of each phrase alone.

    Raises BadConfig for a category and a phrase of one name, and for texts that the score cannot take.
    """
    return list(_parts(score, prompts, total))


def _parts(score: TextScore, prompts: Prompts, total: int) -> Iterator[Part]:
    asked = [prompts[i] for i in range(total)]
    label = {
        "reference": f"{prompts.name} ({prompts.content_hash()[:8]})",
        "better": "higher",
        "implementation": f"{score.name} (weights {score.weights[:12]})",
    }

    def part(name: str, rows: list[int], texts: list[str], **more: Any) -> Part:
        groups = torch.tensor(rows) // prompts.per_prompt
        return Part(
            name,
            rows,
            texts,
            groups,
            {"n": len(rows), "prompts": len(groups.unique()), **label, **more},
        )

    texts = [prompt.text for prompt in asked]
    if both := {prompt.category for prompt in asked} & {prompt.phrase for prompt in asked} - {None}:
        raise BadConfig(
            f"{prompts.name} has a category and a phrase that are both called {min(map(str, both))!r}"
        )
    yield part(score.score_name, list(range(total)), texts, truncated=score.truncated(texts))
    for category in sorted({prompt.category for prompt in asked if prompt.category}):
        rows = [i for i, prompt in enumerate(asked) if prompt.category == category]
        yield part(f"{score.score_name}/{category}", rows, [texts[i] for i in rows])
    for phrase in dict.fromkeys(prompt.phrase for prompt in asked if prompt.phrase):
        rows = [i for i, prompt in enumerate(asked) if prompt.phrase == phrase]
        yield part(f"{score.score_name}/{phrase}", rows, [phrase] * len(rows), text=phrase)


def measure_score(
    run: Run, shards: FeatureShards, score: TextScore, parts: list[Part]
) -> tuple[dict[str, dict[str, Any]], dict[str, list[float]]]:
    """Return the metrics of a score and their bootstrap replicates; every image's score is kept in moments/."""
    metrics: dict[str, dict[str, Any]] = {}
    replicates: dict[str, list[float]] = {}
    features = torch.cat(list(shards.read(score.suffix)))
    kept = {}
    for part in parts:
        values = score.score(features[part.rows], part.texts)
        metrics[part.name] = {"value": score.mean(values), **part.label}
        if has_spread(part):
            replicates[part.name] = score_replicates(run.config, part, values)
        kept[part.name] = values
    tensors.save(run.path / "moments" / f"{score.suffix}_scores.safetensors", kept)
    return metrics, replicates


def has_spread(part: Part) -> bool:
    """Whether there is an interval: one prompt alone has none."""
    return len(part.groups.unique()) > 1


def score_replicates(config: dict[str, Any], part: Part, values: Tensor) -> list[float]:
    """Return the mean score of resampled prompts, each with all its images, a number per resample.

    Sampling seeds draw the same prompts, so that they are resampled alike for all of them.
    """
    return resampled_means(0, values, config["metrics"]["replicates"], part.groups)
