"""Read a suite file and check it; each mistake is reported with its line (docs/suites.md).

The keys, their types and their meaning: deme/runs/settings/suite.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from string import Template

from pydantic import TypeAdapter, ValidationError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from deme.runs.row_order import in_table_order
from deme.runs.settings import CHAIN, RowSettings, StartSettings, SuiteSettings, explanation
from deme.runs.suite_base_rules import Mistake, Place
from deme.runs.suite_rules import mistakes_of
from deme.system import (
    BadConfig,
    MissingInput,
    WorkFailed,
    bad_value,
    compose_yaml,
    construct_yaml,
    first_lines,
)


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
        mistakes = mistakes_of(settings, file)
    except ValidationError as error:
        places = [each["loc"] for each in error.errors()]
        # a list of which an element is wrong counts as too short, too
        around = {place[:n] for place in places for n in range(len(place))}
        found = [each for each in error.errors() if each["loc"] not in around]
        mistakes = [_mistake(tree, each["loc"], each) for each in found]
    if mistakes:
        lines = [f"{_line(tree, place)}: {text}" for place, text in mistakes]
        raise BadConfig(first_lines([*dict.fromkeys(lines)]))
    return file, replace(settings, rows=in_table_order(settings.rows))


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
    if mistakes := list(yaml_mistakes(tree)):
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


def yaml_mistakes(tree: Node) -> Iterator[str]:
    """Yield duplicate keys and keys without a value of a YAML file."""
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
    elif place[0] == "bases" and place[-1] == "[key]":
        prefix, error = "each key of ", {**error, "loc": place[:1]}
    elif place[0] == "bases" and len(place) > 2:
        kind, prefix = StartSettings, f"base {place[1]}: "
        error = {**error, "loc": place[2:]}
    text = explanation(kind, error).partition("\n")[0]
    return place, prefix + text.replace(", or null;", ";")
