"""What the keys of a suite file must not contradict (docs/suites.md)."""

import re
from collections.abc import Iterator
from pathlib import Path

from deme.runs.config import expand_path_shortcut
from deme.runs.settings import CHAIN, PublishedNumbers, RowSettings, SuiteSettings, row_and_base
from deme.runs.suite_base_rules import (
    Mistake,
    Place,
    Rows,
    base_mistakes,
    layout_mistakes,
    unknown_base,
    unknown_row,
)
from deme.system import MissingInput, WorkFailed, did_you_mean, read_json

OWN_KEY = re.compile(
    r"[\s+~]*(hydra\b|trust\b|suite\b|stage\b|logger\.|paths(=|@|\s*$|\.(runs|cache)\b))"
)
INPUTS = re.compile(r"[\s+~]*inputs(=|@|\s*$)")  # all of them
PUBLISHED = 'it must hold {"rows": {<row>: {<metric>: <number>}}}'
NEED_TRAIN = {
    "search_of": "which takes the weights found",
    "starts_from": "which starts from that model",
    "copies": "which is repeated",
}
REFERENCES = {"experts_of": "train", "search_of": "search", "starts_from": None, "after": None}


def mistakes_of(suite: SuiteSettings, file: Path) -> list[Mistake]:
    """Return what is wrong with the keys of a suite, with their places. Raises MissingInput."""
    mistakes = list(_name_mistakes(suite))
    mistakes = mistakes or list(base_mistakes(suite)) or list(layout_mistakes(suite))
    mistakes += _published_mistakes(suite, file)
    return mistakes + list(_overrides_mistakes(suite))


def _name_mistakes(suite: SuiteSettings) -> Iterator[Mistake]:
    """Yield names that nothing has, and keys that do not belong together in a row."""
    names = [row.name for row in suite.rows]
    rows = dict(zip(names, suite.rows, strict=True))
    for index, row in enumerate(suite.rows):
        if row.name in names[:index]:
            yield ("rows", index, "name"), f"two rows have the name {row.name}"
        for key, problem in (*_reference_mistakes(row, rows), *_row_mistakes(row, rows)):
            yield ("rows", index, key), f"row {row.name}: {problem}"
        for base in row.bases or ():
            if text := unknown_base(base, suite):
                yield ("rows", index, "bases"), f"row {row.name}: bases: {text}"
        if row.bases == () and not suite.bases:
            yield ("rows", index, "bases"), f"row {row.name}: bases: the suite has no `bases`"
    named = [(("comparisons", i), one) for i, pair in enumerate(suite.comparisons) for one in pair]
    places: list[tuple[Place, str]] = [(("baseline",), suite.baseline), *named]
    for place, called in places:
        name, named_base = row_and_base(called)
        if text := unknown_row(name, rows, "evaluate") or unknown_base(named_base, suite):
            yield place, text
    for metric in suite.plan.paired_sd:
        if (name := row_and_base(metric)[0]) not in suite.metrics:
            near = did_you_mean(name, suite.metrics)
            known = ", ".join(suite.metrics)
            yield (
                ("plan", "paired_sd", metric),
                f"{name!r} is not a metric of the suite; {near}allowed: {known}",
            )
        if text := unknown_base(row_and_base(metric)[1], suite):
            yield ("plan", "paired_sd", metric), f"{metric}: {text}"


def _reference_mistakes(row: RowSettings, rows: Rows) -> Iterator[tuple[str, str]]:
    for key, stage in REFERENCES.items():
        name: str | None = getattr(row, key)
        if name is None:
            continue
        if text := unknown_row(name, rows, stage):
            yield key, f"{key}: {text}"
        elif key == "starts_from" and (text := _no_model(rows[name])):
            yield key, f"{key}: {name!r} {text}"
    if row.after is not None and row.after in rows and rows[row.after].after:
        yield "after", f"after: {row.after!r} must not have the key `after` itself"


def _no_model(row: RowSettings) -> str | None:
    """Return why no training can start from the model of a row, if none can."""
    if row.merge is not None or (row.average is not None and not row.experts):
        return None
    if row.train is None:
        return "makes no model; leave starts_from out to start from the base"
    if row.experts or row.copies:
        return "trains several models and makes no merge or average of them"
    return None


def _row_mistakes(row: RowSettings, rows: Rows) -> Iterator[tuple[str, str]]:
    """Yield keys that need others, or exclude them."""
    if row.train is None:
        for stage in ("search", "merge"):
            alone = row.experts_of is None and not (stage == "search" and row.mixes_snapshots)
            if alone and row.overrides(stage) is not None:
                yield stage, f"{stage} needs models: type train: or experts_of:"
        for key, why in NEED_TRAIN.items():
            if getattr(row, key) is not None:
                yield key, f"{key} needs a train stage, {why}"
    elif row.experts_of is not None:
        what = "experts_of with train gives the experts to that training (method=distill)"
        if row.experts is not None:
            yield "experts", f"{what}, which trains one model: leave out experts"
        for stage in ("search", "merge"):
            if row.overrides(stage) is not None:
                yield stage, f"{what}: leave out {stage}, or train in another row"
    if row.independent and not row.experts:
        yield "independent", "independent is about experts: type experts: [0, 1, ...]"
    if row.copies and row.experts:
        yield "copies", "copies are of one model, and experts are several: keep one of the keys"
    else:
        yield from _model_mistakes(row, rows)


def _model_mistakes(row: RowSettings, rows: Rows) -> Iterator[tuple[str, str]]:
    """Yield stages of a row that take another number of models than there are."""
    source = row if row.train is not None else rows.get(row.experts_of or "", row)
    if row.mixes_snapshots and (source.experts or source.copies):
        what = "experts" if source.experts else "copies"
        yield "search", f"a mixture is of the snapshots of one model, and this row has {what}"
    if row.average is not None and row.merge is not None and (row.train is None or row.copies):
        yield "merge", "an average of all models leaves one, and nothing to merge"
    joined = row.average is not None or row.merge is not None or row.experts is not None
    several = source.copies if source is row or source.average is None else None
    several = several or (len(source.experts or ()) if source is not row else 0)
    if row.evaluate is not None and several and not joined:
        yield (
            "evaluate",
            f"evaluate measures one model, and {source.name} trains {several}: type merge: [], or "
            'average: ["average=mean"]',
        )


def _overrides_mistakes(suite: SuiteSettings) -> Iterator[Mistake]:
    """Yield overrides of what is the user's own: Hydra's search path, trust, where runs are."""
    places: list[tuple[Place, tuple[str, ...]]] = [
        (("common", stage), getattr(suite.common, stage)) for stage in CHAIN
    ]
    places += [
        (("rows", index, stage), row.overrides(stage) or ())
        for index, row in enumerate(suite.rows)
        for stage in CHAIN
    ]
    places += [(("bases", name, "model"), one.model or ()) for name, one in suite.bases.items()]
    for place, overrides in places:
        for override in overrides:
            if (mistake := override_mistake(override)) is not None:
                yield place, mistake


def override_mistake(override: str) -> str | None:
    """Return why an override is not allowed in another person's file, None if it is allowed."""
    key, _, value = override.partition("=")
    is_path = "." in key.partition("@")[0] or len(expand_path_shortcut(override)) > 1
    options = [] if is_path else re.split(r"[\[\]{},:'\"\s]+", value)
    if OWN_KEY.match(override):
        return f"a suite may not set {key.strip(' +~'):.200}; type it in the command"
    if INPUTS.match(override):
        return f"{override!r:.200}: set one input, such as inputs.weights=<path>"
    if any(name.startswith("/") or ".." in name.split("/") for name in options):
        return f"{override!r:.200} is a path, not an option of conf/"
    return None


def _published_mistakes(suite: SuiteSettings, file: Path) -> Iterator[Mistake]:
    """Check published numbers before any work. Raises MissingInput."""
    if suite.expected is None:
        return
    place = file.parent / suite.expected
    if not place.is_file():
        raise MissingInput(f"{place} does not exist; {file} expects published numbers in it")
    try:
        rows = read_json(place, PublishedNumbers, PUBLISHED)["rows"]
    except WorkFailed as error:
        yield ("expected",), str(error).replace("\n", "; ")
        return
    metrics = {metric for values in rows.values() for metric in values}
    known = {row.name for row in suite.rows}
    names = {f"{row}@{base}" for row in known for base in suite.bases} | known
    for what, unknown in (("rows", {*rows} - names), ("metrics", metrics - {*suite.metrics})):
        if unknown:
            text = f"{place} has {what} that the suite has not: {', '.join(sorted(unknown))}"
            yield ("expected",), text
