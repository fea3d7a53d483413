"""What an evaluation says of its prompts, against the score of every image and against images made again."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from deme.evaluation.labels import interval
from deme.evaluation.scores import Part, has_spread, score_replicates
from deme.evaluation.tolerance import agree
from deme.metrics.text_score import TextScore
from deme.runs.run import Run
from deme.system import tensors

TOLERANCE = 0.05  # of a score of 0 to 100: what one grey level in a few pixels may change
MAY_DIFFER = 0.05  # the share of images made again that may: a classifier's verdict can tip over

Finding = tuple[bool | None, str]  # holds, does not hold, or was not looked at


def audit_scores(
    run: Run,
    score: TextScore,
    parts: list[Part],
    stored: dict[str, Any],
    features: Tensor,
    picks: list[int],
) -> Iterator[Finding]:
    """Check a score: its numbers and intervals are those of its images' scores, and some of these can be had again."""
    file = tensors.TensorFile(run.path / "moments" / f"{score.suffix}_scores.safetensors")
    wrong = []
    for part in parts:
        values = file.read(part.name) if part.name in file.specs else None
        told = stored.get(part.name, {})
        if (
            values is None
            or len(values) != len(part.rows)
            or abs(score.mean(values) - told.get("value", 1e9)) > 1e-9
        ):
            wrong.append(part.name)
        elif has_spread(part) and not agree(
            interval(told["value"], score_replicates(run.config, part, values)),
            told.get("interval"),
        ):
            wrong.append(f"the interval of {part.name}")
    but = f", but not {', '.join(wrong)}" if wrong else ""
    yield (
        not wrong,
        f"{score.score_name}: metrics.json says what the scores of its images give{but}",
    )
    if score.score_name not in file.specs:
        return
    again = score.score(features, [parts[0].texts[i] for i in picks])
    far = float(((again - file.read(score.score_name)[picks]).abs() > TOLERANCE).double().mean())
    yield (
        far <= MAY_DIFFER,
        f"{score.score_name}: of {len(picks)} made again {far:.0%} score otherwise by more than {TOLERANCE} (allowed {MAY_DIFFER:.0%})",
    )
