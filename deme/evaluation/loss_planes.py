"""Loss-landscape planes through the weights that a search found (the paper's Figure 6a)."""

from itertools import combinations
from pathlib import Path

from deme.evaluation.objective import Scored
from deme.merging.live import LiveMerge
from deme.merging.search.evaluations import Evaluations
from deme.report.search import Plane, landscape
from deme.runs import LossPlaneSettings, found_weights
from deme.system import BadConfig, files, logger, progress


def draw_loss_planes(settings: LossPlaneSettings, search: Path, scored: Scored) -> None:
    """Score and plot the planes of every two experts' weights through the best vector of a search.

    Every score is stored in loss_planes.jsonl, so that a stopped command can be resumed.
    """
    best = found_weights(search)["weights"]
    if len(best) < 2:
        raise BadConfig(
            "a loss plane needs two experts, and there is one\ntype: loss_planes.points=0"
        )
    if isinstance(scored.live.live, LiveMerge):  # faster; a figure need not be reproducible to bits
        scored.live.live.incremental = True
    minimum = max(0.0, settings.low) if scored.live.merge.method.mean else settings.low
    low, high = min(minimum, *best), max(settings.high, *best)  # the best vector is visible
    axis = [low + i * (high - low) / (settings.points - 1) for i in range(settings.points)]
    pairs = list(combinations(range(len(best)), 2))
    planes = []
    with progress("loss planes", len(pairs) * len(axis) ** 2, "scores") as bar:
        evaluations = Evaluations(scored.objective, search / "loss_planes.jsonl")
        for one, other in pairs:
            scores = []
            for y in axis:
                vectors = [[{one: x, other: y}.get(i, w) for i, w in enumerate(best)] for x in axis]
                scores.append([evaluations(vector) for vector in vectors])
                bar.advance(len(axis))
            planes.append(Plane((one, other), axis, scores, (best[one], best[other])))
    with files.atomic(search / "loss_planes.png") as file:
        landscape(scored.metric, planes).savefig(file, format="png", dpi=110)
    logger.info("loss_planes.png shows the loss-landscape planes")
