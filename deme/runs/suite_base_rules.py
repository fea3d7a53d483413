"""What a suite file must not contradict about the models that its rows start from."""

import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError

from deme.runs.row_order import in_order
from deme.runs.settings import RowSettings, StartSettings, SuiteSettings, row_and_base
from deme.system import did_you_mean

MODEL = re.compile(r"[\s+~]*model\b")

Place = tuple[str | int, ...]  # of a value in the file: ("rows", 3, "train")
Mistake = tuple[Place, str]
Rows = Mapping[str, RowSettings]


def unknown_row(name: str, rows: Rows, stage: str | None) -> str | None:
    """Return what is wrong with the name of a row that needs a stage, if anything."""
    known = [each for each, row in rows.items() if not stage or row.overrides(stage) is not None]
    if name in known:
        return None
    what = f"has no {stage} stage" if name in rows else "is not a row"
    allowed = ", ".join(known) or "(none)"
    return f"{name!r} {what}; {did_you_mean(name, known)}allowed: {allowed}"


def unknown_base(name: str | None, suite: SuiteSettings) -> str | None:
    """Return what is wrong with the name of a base, if anything."""
    if name is None or name in suite.bases:
        return None
    if not suite.bases:
        return f"{name!r} is not a base: the suite has no `bases`"
    return f"{name!r} is not a base; {did_you_mean(name, suite.bases)}allowed: " + ", ".join(
        suite.bases
    )


def base_mistakes(suite: SuiteSettings) -> Iterator[Mistake]:
    """Yield what is wrong with the models that rows start from."""
    rows = {row.name: row for row in suite.rows}
    if suite.bases and suite.pretrained_by:
        yield ("bases",), "bases and pretrained_by both say what rows start from: keep one"
    named: list[tuple[Place, str]] = []
    if suite.pretrained_by is not None:
        named.append((("pretrained_by",), suite.pretrained_by))
    for base, start in suite.bases.items():
        named += [(("bases", base, "row"), start.row)] if start.row is not None else []
        for key, problem in _start_mistakes(start, rows):
            yield ("bases", base, key), f"base {base}: {problem}"
    known = {name for _, name in named}
    named += [
        (("rows", index), row.name)
        for index, row in enumerate(suite.rows)
        if row.name in suite.pretraining - known
    ]
    for place, name in named:
        if text := _no_pretraining(name, suite, rows):
            yield place, text
    if suite.pretrain_seeds and not suite.pretraining:
        yield ("pretrain_seeds",), "pretrain_seeds needs pretrained_by, or bases that name a row"


def _start_mistakes(start: StartSettings, rows: Rows) -> Iterator[tuple[str, str]]:
    if (start.row is None) == (start.model is None):
        yield "row", "type row: <row that trains it>, or model: [<overrides>], one of them"
    if start.weights and start.row is None:
        yield "weights", "weights are those of a row's run; of a checkpoint type model.ema=true"
    made = rows.get(start.row or "")
    if start.weights and made is not None and made.average is not None:
        yield "weights", f"{start.row} makes an average, which has no other weights: leave it out"
    for override in start.model or ():
        if not MODEL.match(override):
            yield "model", f"{override!r:.200}: only the keys of `model` say which model it is"


def _no_pretraining(name: str, suite: SuiteSettings, rows: Rows) -> str | None:
    """Return why a row cannot make the model that others start from, if it cannot."""
    for each in suite.rows:
        averages = each.average is not None and each.train is None
        for key in ("experts_of", "search_of", "starts_from"):
            if (
                getattr(each, key) == name
                and each.name not in suite.pretraining
                and not (averages and key == "experts_of")
            ):
                return (
                    f"{name!r} makes a base, and row {each.name} names it in {key}; only a row "
                    "that averages its snapshots, or makes a base, too, can name it"
                )
    row = rows.get(name)
    if row is None:
        return unknown_row(name, rows, "train")
    others = (
        row.experts, row.search_of, row.copies, row.search, row.merge, row.evaluate, row.bases,
    )  # fmt: skip
    one_source = (row.train is None) != (row.experts_of is None)
    averaged = row.average is not None or row.experts_of is None
    if not (one_source and averaged) or any(value is not None for value in others):
        return (
            f"{name!r} must be a row with a train stage and no other, which trains one model, or "
            "with the average of such a one"
        )
    return None


def layout_mistakes(suite: SuiteSettings) -> Iterator[Mistake]:
    """Yield circles of rows, and rows that need others which are not laid out for their bases."""
    try:
        in_order(suite.rows)
    except CycleError as error:
        circle = list(dict.fromkeys(error.args[1]))
        index = [row.name for row in suite.rows].index(circle[0])
        keys = "experts_of, search_of and starts_from"
        yield (
            ("rows", index),
            f"rows {', '.join(circle)} wait for each other: look at their {keys}",
        )
        return
    rows = {row.name: row for row in suite.rows}
    for index, row in enumerate(suite.rows):
        for key in ("experts_of", "search_of", "starts_from"):
            name = getattr(row, key)
            if name and (missing := _bases_missing(suite, row, rows[name])):
                yield ("rows", index, key), f"row {row.name}: {key}: {name!r} {missing}"
        of_base = row.average is not None and row.train is None and row.experts_of is None
        if of_base and not all(_trained_base(suite, base) for base in suite.bases_of(row)):
            yield (
                ("rows", index, "average"),
                f"row {row.name}: average needs models: type train: or experts_of:, or bases that "
                "a row trains",
            )
        compared = row.evaluate is not None and row.bases != ()
        if compared and (missing := _bases_missing(suite, row, rows[suite.baseline])):
            yield ("baseline",), f"{suite.baseline!r} {missing}, and {row.name} is"
    yield from _comparison_mistakes(suite, rows)


def _trained_base(suite: SuiteSettings, base: str | None) -> str | None:
    return suite.starts[base].row if base in suite.starts else None


def _bases_missing(suite: SuiteSettings, row: RowSettings, other: RowSettings) -> str | None:
    """Return which bases of a row another row, which it needs, is not laid out for."""
    if other.bases == () or row.name in suite.pretraining or other.name in suite.pretraining:
        return None
    missing = [base for base in suite.bases_of(row) if base not in suite.bases_of(other)]
    if missing == [None] and suite.bases:
        return "starts from a base, and this row from none"
    return f"is not laid out for {', '.join(map(str, missing))}" if missing else None


def _comparison_mistakes(suite: SuiteSettings, rows: Rows) -> Iterator[Mistake]:
    for index, pair in enumerate(suite.comparisons):
        found = [row_and_base(name) for name in pair]
        for name, base in found:
            if base is not None and base not in suite.bases_of(rows[name]):
                yield ("comparisons", index), f"{name!r} is not laid out for {base}"
        bases = [base for name, base in found if rows[name].bases != ()]
        if None in bases and {*bases} != {None}:
            yield ("comparisons", index), f"{' and '.join(pair)}: name the base of both, or of none"
        elif bases and bases[0] is None and not suite.shared_bases(*(rows[n] for n, _ in found)):
            yield ("comparisons", index), f"{' and '.join(pair)} have no base in common"
