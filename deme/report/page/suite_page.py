"""The page of a suite: its verdict, table, differences, samples, curves, weights and commands."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

from deme import __version__
from deme.report import figures, tables
from deme.report.notes import notes
from deme.report.page.bars import PageCell, PageTable, comparison_cells, results_cells
from deme.report.page.curves import Curve, add_curves, read_curves, training_curves
from deme.report.page.drawing import inline_svg
from deme.report.page.history import (
    done_by_row,
    environment,
    histories,
    merge_weights,
    search_costs,
)
from deme.report.page.html import render
from deme.report.page.pictures import Picture, fitted
from deme.report.page.verdict import best_row, verdicts
from deme.report.rows import Comparison, Row, SuiteResults
from deme.runs import Suite


def suite_page(suite: Suite) -> str:
    """Return the page of a suite as HTML. Missing results are listed with their commands."""
    found = SuiteResults(suite)
    rows, compared = found.rows(), found.comparisons()
    named = [(base, row) for base, part in tables.by_base(suite, rows) for row in part]
    missing = list(dict.fromkeys(command for row in rows for command in row.missing))
    history = histories(suite)
    done = [node.path for node in suite.nodes if node.state == "done"]
    shown = _distinct(named)
    left, right = _pair(suite, rows, [row for _, row in shown])
    context = {
        "title": suite.title,
        "name": suite.name,
        "version": __version__,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "num_done": len(done),
        "num_runs": len(suite.nodes),
        "seconds": sum(each.seconds for each in history),
        "verdicts": verdicts(suite, rows),
        "results": _results(suite, rows),
        "compared": _compared(suite, rows, compared),
        "parts": _parts(suite, rows),
        "notes": notes(suite, rows),
        "figures": _figures(suite, rows),
        "pictures": [_picture(base, row, len(shown)) for base, row in shown],
        "left": left,
        "right": right,
        "curves": _curves(suite),
        "weights": merge_weights(suite),
        "searches": search_costs(suite),
        "history": history,
        "environment": environment(done),
        "missing": missing,
        "num_missing": sum(len(row.missing) for row in rows),
        "command": shlex.join(["deme", "reproduce", str(suite.file), *suite.places]),
    }
    return render("suite.html.jinja", context)


def _results(suite: Suite, rows: Sequence[Row]) -> list[PageTable]:
    metrics = suite.settings.metrics
    published = {metric: tables.has_published(suite, metric) for metric in metrics}
    columns = ["row"]
    for metric in metrics:
        columns += [f"{metric}, published (measured - published)"] if published[metric] else []
        columns += [metric, f"difference to {suite.settings.baseline}"]
    found = []
    for base, part in tables.by_base(suite, rows):
        texts = tables.results_table(suite, metrics, part, base)
        lines = results_cells(metrics, part, texts, published)
        found.append(PageTable(base, [*columns, "training compute"], lines))
    return found


def _compared(
    suite: Suite, rows: Sequence[Row], compared: Sequence[Comparison]
) -> PageTable | None:
    if not compared:
        return None
    metrics = suite.settings.metrics
    texts = tables.comparisons_table(metrics, rows, compared)
    num_names = len(texts.columns) - 2 * len(metrics)
    columns = [*texts.columns[:num_names], *(f"difference in {metric}" for metric in metrics)]
    return PageTable(texts.title, columns, comparison_cells(metrics, compared, texts, num_names))


def _parts(suite: Suite, rows: Sequence[Row]) -> list[PageTable]:
    return [
        PageTable(
            each.title, each.columns, [[PageCell(text) for text in line] for line in each.lines]
        )
        for base, part in tables.by_base(suite, rows)
        for each in tables.part_tables(part, base)
    ]


@dataclass(frozen=True)
class PageFigure:
    """A figure of the page and its heading."""

    title: str
    image: Markup


def _figures(suite: Suite, rows: Sequence[Row]) -> list[PageFigure]:
    """Return the loss in each range of timesteps, for each base."""
    found = []
    for base, part in tables.by_base(suite, rows):
        paired = [name for row in part for name, n in row.numbers.items() if n.difference]
        if any(name.startswith("loss/") for name in paired):
            label = f"held-out loss per range of timesteps: {base}"
            found.append(PageFigure(base, inline_svg(figures.loss_per_range(part), label)))
    return found


def _distinct(named: Sequence[tuple[str, Row]]) -> list[tuple[str, Row]]:
    """Return the rows that have a picture, each once; a row without a base is in every part."""
    distinct = {one[1].grid: one for one in reversed(named)}
    return [one for one in named if one[1].grid is not None and distinct[one[1].grid] is one]


def _picture(base: str, row: Row, num_pictures: int) -> Picture:
    assert row.grid is not None
    return fitted(row.label, base, figures.picture(row.grid), num_pictures)


def _pair(suite: Suite, rows: Sequence[Row], shown: Sequence[Row]) -> tuple[int, int]:
    """Return the indices of the grids that are compared first: the baseline and the best row."""
    names = [row.name for row in shown]
    left = names.index(suite.settings.baseline) if suite.settings.baseline in names else 0
    base = shown[left].base if shown else None
    best = best_row([row for row in rows if row.base == base], suite.settings.metrics)
    is_best = [best is not None and row is best for row in shown]
    return left, is_best.index(True) if any(is_best) else len(shown) - 1


def _curves(suite: Suite) -> Markup | None:
    panels: dict[str, dict[str, list[Curve]]] = {}
    for label, nodes in done_by_row(suite, "train"):
        for node in nodes:
            part = "" if node.expert is None else f"expert {node.expert}"
            add_curves(panels, label, part, read_curves(node.path))
    if not panels:
        return None
    return inline_svg(training_curves(panels), "losses of each row while it was trained")
