"""Read a suite file and check it; each mistake is reported with its line (docs/suites.md).

The keys, their types and their meaning: deme/runs/settings/suite.py.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from string import Template

from pydantic import TypeAdapter, ValidationError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from deme.runs.config import expand_path_shortcut
from deme.runs.settings import CHAIN, PublishedNumbers, RowSettings, SuiteSettings, explanation
from deme.system import (
    BadConfig,
    MissingInput,
    WorkFailed,
    bad_value,
    compose_yaml,
    construct_yaml,
    did_you_mean,
    first_lines,
    read_json,
)

OWN_KEY = re.compile(r"[\s+~]*(hydra\b|trust\b|suite\b|stage\b|paths(=|@|\s*$|\.(runs|cache)\b))")
INPUTS = re.compile(r"[\s+~]*inputs(=|@|\s*$)")  # all of them

Place = tuple[str | int, ...]  # of a value in the file: ("rows", 3, "train")
Mistake = tuple[Place, str]
PUBLISHED = 'it must hold {"rows": {<row>: {<metric>: <number>}}}'


def read_suite(place: Path) -> tuple[Path, SuiteSettings]:
    """Read experiments/<table> (its suite.yaml) or a suite file. Raises MissingInput, BadConfig."""
    file = place / "suite.yaml" if place.is_dir() else place
    tree = _tree(file)
    try:
        value = construct_yaml(tree, file)
    except WorkFailed as error:
        raise BadConfig(str(error)) from error
    if problem := bad_value(value):
        raise BadConfig(f"{file}: {problem}")
    try:
        settings = TypeAdapter(SuiteSettings).validate_python(value)
        mistakes = list(_contradictions(settings, file)) or list(_circles(settings))
        mistakes += _overrides_mistakes(settings)
    except ValidationError as error:
        places = [each["loc"] for each in error.errors()]
        # a list of which an element is wrong counts as too short, too
        around = {place[:n] for place in places for n in range(len(place))}
        found = [each for each in error.errors() if each["loc"] not in around]
        mistakes = [_mistake(tree, each["loc"], each) for each in found]
    if mistakes:
        lines = [f"{_line(tree, place)}: {text}" for place, text in mistakes]
        raise BadConfig(first_lines([*dict.fromkeys(lines)]))
    return file, replace(settings, rows=_in_table_order(settings.rows))


def _tree(file: Path) -> MappingNode:
    """Return the YAML nodes of a suite file, merged with those of the file that it extends."""
    if not file.is_file():
        raise MissingInput(
            f"{file} does not exist\n"
            "a suite is a folder with a suite.yaml, such as experiments/digits, or such a file"
        )
    try:
        tree = compose_yaml(file)
    except WorkFailed as error:
        raise BadConfig(str(error)) from error
    if not isinstance(tree, MappingNode):
        raise BadConfig(f"{file} must hold the keys of a suite, such as suite: and rows:")
    if mistakes := list(_yaml_mistakes(tree)):
        raise BadConfig(first_lines(mistakes))
    keys = _values(tree)
    if not isinstance(keys.get("extends"), ScalarNode):
        return tree
    other = file.parent / str(keys["extends"].value)
    if "extends" in _values(shared := _tree(other)):
        raise BadConfig(f"{file} extends {other}, which extends another file; one step is allowed")
    variables = keys.get("variables")
    if isinstance(variables, MappingNode):
        texts = {name: str(node.value) for name, node in _values(variables).items()}
        for node in _nodes(shared):
            if isinstance(node, ScalarNode):
                node.value = Template(node.value).safe_substitute(texts)
    return _merged(shared, tree)


def _values(tree: MappingNode) -> dict[str, Node]:
    return {str(key.value): value for key, value in tree.value}


def _nodes(tree: Node) -> Iterator[Node]:
    """Yield a node and everything in it."""
    yield tree
    for part in [] if isinstance(tree, ScalarNode) else tree.value:
        for child in part if isinstance(part, tuple) else [part]:
            yield from _nodes(child)


def _merged(shared: MappingNode, own: MappingNode) -> MappingNode:
    """Return the keys of both: `rows` one after the other, `common` key by key, else the own."""
    found = {str(key.value): (key, value) for key, value in shared.value}
    for key, value in own.value:
        before = found.get(key.value, (key, None))[1]
        if key.value == "common" and type(before) is type(value) is MappingNode:
            value = _merged(before, value)
        elif key.value == "rows" and type(before) is type(value) is SequenceNode:
            value = SequenceNode(
                value.tag, before.value + value.value, value.start_mark, value.end_mark
            )
        found[key.value] = (key, value)
    return MappingNode(own.tag, list(found.values()), own.start_mark, own.end_mark)


def _line(tree: Node, place: Place) -> str:
    """Return "<file>, line <n>" of the value at `place`, or of what it should be in."""
    node, start = tree, tree
    for part in place:
        if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = start = node.value[part]
        elif isinstance(node, MappingNode):
            for key, value in node.value:
                if key.value == part:
                    node, start = value, key
    return _place(start)


def _place(node: Node) -> str:
    return f"{node.start_mark.name}, line {node.start_mark.line + 1}"


def _yaml_mistakes(tree: Node) -> Iterator[str]:
    """Yield keys that are given twice, and keys without a value."""
    for mapping in (node for node in _nodes(tree) if isinstance(node, MappingNode)):
        for index, (key, value) in enumerate(mapping.value):
            where = f"{_place(key)}: key {key.value!r}"
            if key.value in [other.value for other, _ in mapping.value[:index]]:
                yield f"{where} is given twice"
            if value.tag.endswith(":null"):
                chain = f"type {key.value}: [] for no overrides"
                yield f"{where} has no value; {chain if key.value in CHAIN else 'leave it out'}"


def _mistake(tree: MappingNode, place: Place, error: Mapping[str, object]) -> Mistake:
    """Return what is wrong with a value, in the words of the other settings."""
    kind: type = SuiteSettings
    prefix = ""
    if len(place) > 2 and place[0] == "rows":
        row = _values(tree)["rows"].value[place[1]]
        name = _values(row).get("name") if isinstance(row, MappingNode) else None
        kind, prefix = RowSettings, f"row {name.value if name else place[1]}: "
        error = {**error, "loc": place[2:]}
    text = explanation(kind, error).partition("\n")[0]
    return place, prefix + text.replace(", or null;", ";")


def _contradictions(suite: SuiteSettings, file: Path) -> Iterator[Mistake]:
    names = [row.name for row in suite.rows]
    rows = dict(zip(names, suite.rows, strict=True))
    for index, row in enumerate(suite.rows):
        if row.name in names[:index]:
            yield ("rows", index, "name"), f"two rows have the name {row.name}"
        for place, text in _row_mistakes(row, rows):
            yield ("rows", index, place), f"row {row.name}: {text}"
    named: list[tuple[Place, str | None]] = [
        (("baseline",), _unknown(suite.baseline, rows, "evaluate")),
        (("pretrained_by",), _no_pretraining(suite, rows)),
    ]
    for index, pair in enumerate(suite.comparisons):
        named += [(("comparisons", index), _unknown(name, rows, "evaluate")) for name in pair]
    yield from ((where, problem) for where, problem in named if problem)
    yield from ((("expected",), text) for text in _expected_mistakes(suite, file))


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
    for place, overrides in places:
        for override in overrides:
            key, _, value = override.partition("=")
            is_path = "." in key.partition("@")[0] or len(expand_path_shortcut(override)) > 1
            options = [] if is_path else re.split(r"[\[\]{},:'\"\s]+", value)
            if OWN_KEY.match(override):
                yield (
                    place,
                    f"a suite may not set {key.strip(' +~'):.200}; type it in the command",
                )
            elif INPUTS.match(override):
                yield place, f"{override!r:.200}: set one input, such as inputs.weights=<path>"
            elif any(name.startswith("/") or ".." in name.split("/") for name in options):
                yield place, f"{override!r:.200} is no option of conf/, but a path"


def _circles(suite: SuiteSettings) -> Iterator[Mistake]:
    try:
        in_order(suite.rows)
    except CycleError as error:
        circle = list(dict.fromkeys(error.args[1]))
        index = [row.name for row in suite.rows].index(circle[0])
        names = ", ".join(circle)
        text = f"rows {names} wait for each other: look at their experts_of and search_of"
        yield ("rows", index), text


def _unknown(name: str, rows: dict[str, RowSettings], stage: str | None) -> str | None:
    """Return what is wrong with the name of a row that needs a stage, if anything."""
    known = [each for each, row in rows.items() if not stage or row.overrides(stage) is not None]
    if name in known:
        return None
    what = f"has no {stage} stage" if name in rows else "is not a row"
    allowed = ", ".join(known) or "(none)"
    return f"{name!r} {what}; {did_you_mean(name, known)}allowed: {allowed}"


def _row_mistakes(row: RowSettings, rows: dict[str, RowSettings]) -> Iterator[tuple[str, str]]:
    for key, stage in (("experts_of", "train"), ("search_of", "search"), ("after", None)):
        name = getattr(row, key)
        if name is not None and (text := _unknown(name, rows, stage)):
            yield key, f"{key}: {text}"
    if row.after in rows and rows[row.after].after:
        yield "after", f"after: {row.after!r} must not have the key `after` itself"
    if row.train is None and row.experts_of is None:
        for stage in ("search", "merge"):
            if row.overrides(stage) is not None:
                yield stage, f"{stage} needs experts: type train: or experts_of:"
    if row.search_of is not None and row.train is None:
        yield "search_of", "search_of needs a train stage, which takes the weights found"


def _no_pretraining(suite: SuiteSettings, rows: dict[str, RowSettings]) -> str | None:
    name = suite.pretrained_by
    row = rows.get(name or "")
    if name is None:
        return None
    if any(name in (each.experts_of, each.search_of) for each in suite.rows):
        return f"{name!r} trains one model; no row can name it in experts_of or search_of"
    others = () if row is None else (row.experts, row.search_of, *map(row.overrides, CHAIN[1:]))
    if row is None or row.train is None or any(value is not None for value in others):
        return f"{name!r} must be a row with a train stage and no other, which trains one model"
    return None


def _expected_mistakes(suite: SuiteSettings, file: Path) -> Iterator[str]:
    """Check published numbers before any work. Raises MissingInput."""
    if suite.expected is None:
        return
    place = file.parent / suite.expected
    if not place.is_file():
        raise MissingInput(f"{place} does not exist; {file} expects published numbers in it")
    try:
        rows = read_json(place, PublishedNumbers, PUBLISHED)["rows"]
    except WorkFailed as error:
        yield str(error).replace("\n", "; ")
        return
    metrics = {metric for values in rows.values() for metric in values}
    for what, unknown in (
        ("rows", set(rows) - {row.name for row in suite.rows}),
        ("metrics", metrics - set(suite.metrics)),
    ):
        if unknown:
            yield f"{place} has {what} that the suite has not: {', '.join(sorted(unknown))}"


def _in_table_order(rows: Sequence[RowSettings]) -> tuple[RowSettings, ...]:
    """Put each row with the key `after` behind the row that it names."""
    placed = [row for row in rows if row.after is None]
    for row in reversed(rows):
        if row.after is not None:
            names = [each.name for each in placed]
            placed.insert(names.index(row.after) + 1, row)
    return tuple(placed)


def in_order(rows: Sequence[RowSettings]) -> list[RowSettings]:
    """Return the rows with those first whose experts or merge weights others take.

    Raises CycleError for rows that wait for each other.
    """
    sorter = TopologicalSorter({row.name: {row.experts_of, row.search_of} - {None} for row in rows})
    sorter.prepare()
    found: list[RowSettings] = []
    while sorter.is_active():
        ready = sorter.get_ready()
        found += [row for row in rows if row.name in ready]
        sorter.done(*ready)
    return found
