"""A Weights & Biases workspace, defined in code, with panels for a published suite."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from deme.runs import Suite, row_at_base
from deme.system import check_installed, files, logger, read_json
from deme.tracking.tracker import quiet
from deme.tracking.wandb_tracker import has_credentials, resolved_mode

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

CURVES = {  # titles by the keys of curves
    "train/loss": "loss",
    "train/held_out_loss": "held-out loss",
    "train/learning_rate": "learning rate",
    "train/gradient_norm": "gradient norm before clipping",
    "train/ema_decay": "decay of the average",
    "train/images_per_second": "images per second",
    "search/score": "score of the search",
    "search/best": "best score of the search",
}
TERMS = r"train/(loss|task_loss|task_weight)/.*"
LABELS = ("method", "seed", "sample_seed")  # of evaluations, without dots in their names


class _Saved(TypedDict, total=False):
    """The specification that an earlier command wrote."""

    url: str | None


def make_workspace(suite: Suite, project: str, entity: str | None) -> "Workspace":
    """Return the workspace of a suite. Raises MissingInput without wandb-workspaces."""
    check_installed("wandb_workspaces", "describes a dashboard", "dashboard")
    with quiet():
        import wandb_workspaces.workspaces as ws
        from wandb_workspaces.expr import And

        sections = list(_sections(suite))
    return ws.Workspace(
        entity=entity or "",
        project=project,
        name=suite.title,
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis="Step", max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=And(ws.Metric("Group") == suite.name),
            groupby=[ws.Metric("JobType"), ws.Config("method")],
        ),
    )


def _sections(suite: Suite) -> "Sequence[Section]":
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    metrics = list(suite.settings.metrics)
    names = _row_names(suite)

    def bars(kind: str, metric: str, title: str) -> "wr.BarPlot":
        keys = [f"{kind}/{metric}/{name}" for name in names]
        return wr.BarPlot(title=title, metrics=keys, orientation="h")

    differences = [
        bars("difference", metric, f"{metric}: difference to {suite.settings.baseline}")
        for metric in metrics
    ]
    axes = [
        wr.ParallelCoordinatesPlotColumn(metric=wr.Config(name), display_name=name)
        for name in LABELS
    ] + [
        wr.ParallelCoordinatesPlotColumn(
            metric=wr.SummaryMetric(f"metric/{metric}"), display_name=metric
        )
        for metric in metrics
    ]
    tables = ("rows", "differences")
    return [
        ws.Section(
            name="Table",
            panels=[
                *(wr.WeavePanelSummaryTable(table_name=name) for name in tables),
                *(bars("table", metric, f"{metric}: mean") for metric in metrics),
            ],
            is_open=True,
        ),
        ws.Section(name="Differences", panels=differences, is_open=True),
        ws.Section(
            name="Curves",
            panels=[
                *(wr.LinePlot(title=title, x="Step", y=[key]) for key, title in CURVES.items()),
                wr.LinePlot(title="terms of the loss, and tasks", x="Step", metric_regex=TERMS),
            ],
            is_open=True,
        ),
        ws.Section(
            name="Samples",
            panels=[
                wr.WeavePanelSummaryTable(table_name="samples_by_seed"),
                wr.MediaBrowser(title="samples of every run", media_keys=["samples"]),
            ],
        ),
        ws.Section(
            name="Parallel coordinates",
            panels=[wr.ParallelCoordinatesPlot(columns=axes, title="seeds and metrics")],
        ),
    ]


def _row_names(suite: Suite) -> list[str]:
    """Return the rows by the names that the keys of the table use."""
    return [row_at_base(row.name, base) for base, rows in suite.sections for row in rows]


def specification(workspace: "Workspace") -> dict[str, Any]:
    """Return what is uploaded of a workspace: its name, and the specification of its view."""
    view = workspace._to_model()
    found: dict[str, Any] = json.loads(view.model_dump_json(by_alias=True, exclude_none=True))
    return found


def save(workspace: "Workspace", file: Path, online: bool) -> str | None:
    """Write the specification to a file, and upload it if `online`; return its address.

    If the file names a workspace that was uploaded before, that workspace is replaced.
    """
    url = read_json(file, _Saved).get("url") if file.is_file() else None
    if online:
        url = _uploaded(workspace, url)
    files.write_json(file, {"url": url, **specification(workspace)})
    return url if online else None


def _uploaded(workspace: "Workspace", url: str | None) -> str:
    if url is not None:
        try:
            earlier = type(workspace).from_url(url)
            workspace._internal_name = earlier._internal_name
            workspace._internal_id = earlier._internal_id
        except Exception:  # it was deleted there
            logger.info("%s does not exist any more; a new one is created", url)
    return str(workspace.save().url)


def is_online() -> bool:
    """Whether to upload: there is an API key, and $WANDB_MODE allows it."""
    asked = None if os.environ.get("WANDB_MODE") else "online"
    return resolved_mode(asked) == "online" and has_credentials()
