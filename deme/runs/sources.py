"""Read files.yaml: the sources of the files that a suite reads (docs/prepare.md)."""

from collections.abc import Mapping
from pathlib import Path

from deme.runs.settings import build
from deme.runs.settings.sources import SourceSettings
from deme.runs.suite import Suite
from deme.runs.suite_file import yaml_mistakes
from deme.runs.suite_rules import override_mistake
from deme.system import BadConfig, WorkFailed, compose_yaml, construct_yaml, first_lines

Sources = Mapping[str, SourceSettings]


def suite_sources(suite: Suite) -> Sources:
    """Return the entries of all files that the suite's key `files` names.

    Raises MissingInput, BadConfig.
    """
    found: dict[str, SourceSettings] = {}
    for name in suite.settings.files:
        file = suite.file.parent / name
        for entry, source in read_sources(file).items():
            if entry in found:
                raise BadConfig(f"{file}: {entry} is in another file of {suite.file}, too")
            found[entry] = source
    for entry, source in found.items():
        if unknown := [need for need in source.needs if need not in found]:
            raise BadConfig(
                f"{suite.file}: {entry} needs {', '.join(unknown)}, which no file of `files` has"
            )
    places = [source.place for source in found.values()]
    if twice := sorted({place for place in places if places.count(place) > 1}):
        raise BadConfig(f"{suite.file}: several entries of its files are for {', '.join(twice)}")
    return found


def read_sources(file: Path) -> Sources:
    """Return the entries of a file by their names. Raises MissingInput, BadConfig."""
    try:
        tree = compose_yaml(file)
        value = construct_yaml(tree, file) if tree is not None else {}
    except WorkFailed as error:
        raise BadConfig(str(error)) from error
    if tree is not None and (mistakes := list(yaml_mistakes(tree))):
        raise BadConfig(first_lines(mistakes))
    if not isinstance(value, dict) or not all(isinstance(one, dict) for one in value.values()):
        raise BadConfig(f"{file} must hold entries: <name>: {{what: ..., place: ..., ...}}")
    lines, found = [], {}
    for name, entry in value.items():
        try:
            found[str(name)] = build(SourceSettings, entry)
        except BadConfig as error:
            lines += [f"{file}: {name}: {line}" for line in str(error).splitlines()]
            continue
        mistakes = [text for one in found[str(name)].overrides if (text := override_mistake(one))]
        lines += [f"{file}: {name}: {text}" for text in mistakes]
    if lines:
        raise BadConfig(first_lines(lines))
    return found
