"""Scores of images and their prompts: of all, per category, and per phrase of a prompt."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deme.data.prompts import Prompts
from deme.evaluation.labels import Label, Metric
from deme.metrics import FeatureShards, TextScore, resampled_means
from deme.system import BadConfig, tensors


@dataclass(frozen=True)
class Part:
    """A metric of the images `rows` of an evaluation, a text each, and its label.

    Images of one prompt are alike, so the interval resamples prompts, not images: `groups`
    [len(rows)] are the indices of the prompts.
    """

    name: str
    rows: list[int]
    texts: list[str]
    groups: Tensor
    label: Label

    def replicates(self, values: Tensor, count: int) -> list[float] | None:
        """Return the mean score of resampled prompts with all their images; None for one prompt.

        Sampling seeds share the prompts, so they are resampled alike for all of them.
        """
        if len(self.groups.unique()) < 2:
            return None
        return resampled_means(0, values, count, self.groups)


def parts_of(score: TextScore, prompts: Prompts, total: int) -> Iterator[Part]:
    """Yield the metrics of a score: of all images first, then of each category and each phrase.

    Raises BadConfig for a category and a phrase of one name, and for texts that it cannot score.
    """
    given = [prompts[i] for i in range(total)]

    def part(name: str, rows: list[int], texts: list[str], **more: str | int) -> Part:
        groups = torch.tensor(rows) // prompts.per_prompt
        label = {
            "n": len(rows),
            "prompts": len(groups.unique()),
            "reference": f"{prompts.name} ({prompts.content_hash()[:8]})",
            "better": "higher",
            "implementation": f"{score.name} (weights {score.weights[:12]})",
            **more,
        }
        return Part(name, rows, texts, groups, label)

    texts = [prompt.text for prompt in given]
    if both := {prompt.category for prompt in given} & {prompt.phrase for prompt in given} - {None}:
        raise BadConfig(
            f"{prompts.name} has a category and a phrase of the same name {min(map(str, both))!r}"
        )
    yield part(score.score_name, list(range(total)), texts, truncated=score.truncated(texts))
    for category in sorted({prompt.category for prompt in given if prompt.category}):
        rows = [i for i, prompt in enumerate(given) if prompt.category == category]
        yield part(f"{score.score_name}/{category}", rows, [texts[i] for i in rows])
    for phrase in dict.fromkeys(prompt.phrase for prompt in given if prompt.phrase):
        rows = [i for i, prompt in enumerate(given) if prompt.phrase == phrase]
        yield part(f"{score.score_name}/{phrase}", rows, [phrase] * len(rows), text=phrase)


def measure_score(
    folder: Path, shards: FeatureShards, score: TextScore, parts: list[Part], replicates: int
) -> dict[str, Metric]:
    """Return the metrics of a score; the score of every image is kept in `folder`."""
    features = torch.cat(list(shards.read(score.suffix)))
    values = {part.name: score.score(features[part.rows], part.texts) for part in parts}
    tensors.save(folder / f"{score.suffix}_scores.safetensors", values)
    return {
        part.name: Metric(
            score.mean(values[part.name]),
            part.label,
            part.replicates(values[part.name], replicates),
        )
        for part in parts
    }
