"""The files that `deme prepare` handles: which runs read them, their sources, their states."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deme.runs import CHAIN, Node, SourceSettings, Suite, suite_sources
from deme.system import exists, is_weights

NAMED_ROWS = 3  # the most that are listed by name; more are counted


@dataclass(eq=False)
class Item:
    """A file or folder that runs read, or from which another one is made.

    `source` is None if no entry of the suite's `files` describes it. `readable`: all runs find what
    they need, perhaps in another form, such as an unpacked archive. `uses` maps stages to the rows
    that read it.
    """

    place: str
    path: Path
    source: SourceSettings | None = None
    readable: bool = False
    uses: dict[str, list[str]] = field(default_factory=dict)
    parts_of: list[str] = field(default_factory=list)  # places of what is made of it

    @property
    def problem(self) -> str | None:
        """Why it must be obtained, None if it is complete."""
        if not exists(self.path):
            return None if self.readable else "missing"
        if self.source is None:
            return None
        if lacking := missing_content(self.path, self.source):
            return f"{lacking} missing"
        size, found = self.source.bytes, self.path.stat().st_size
        if size is not None and self.source.is_left_as_it_is and found != size:
            return f"{found:,} bytes instead of {size:,}"
        return None

    @property
    def used_by(self) -> str:
        """Which stages of which rows read it, and which files are made from it."""
        rows = {stage: self.uses[stage] for stage in CHAIN if stage in self.uses}
        groups: dict[tuple[str, ...], list[str]] = {}
        for stage, names in rows.items():
            groups.setdefault(tuple(names), []).append(stage)
        texts = [f"{', '.join(stages)} of {_listed(names)}" for names, stages in groups.items()]
        return "; ".join([*texts, *(f"to make {place}" for place in self.parts_of)])


def missing_content(folder: Path, source: SourceSettings) -> str | None:
    """Return the first part of its entry that a folder does not contain, None if it is complete."""
    if not folder.is_dir():
        return None
    for name in source.holds:
        if not exists(folder / name):
            return name
    if source.weights is not None and not any(map(is_weights, folder.rglob("*"))):
        return "weights"
    return None


def _listed(rows: Iterable[str]) -> str:
    names = list(rows)
    return ", ".join(names) if len(names) <= NAMED_ROWS else f"{len(names)} rows"


def needed_items(suite: Suite) -> list[Item]:
    """Return every file that the runs of a suite read, each after the files that it is made from.

    Raises MissingInput, BadConfig.
    """
    sources = suite_sources(suite)
    entries = {source.place: source for source in sources.values()}
    items: dict[str, Item] = {}
    for node in suite.nodes:
        for needed in node.needed_files:
            matches = [
                (place, above)
                for name in needed.places
                for above, place in enumerate(_and_parents(name))
                if place in entries
            ]
            place, above = matches[0] if matches else (needed.places[0], 0)
            path = needed.path.parents[above - 1] if above else needed.path
            item = items.setdefault(place, Item(place, path, readable=True))
            item.source = entries.get(place)
            item.readable &= needed.is_there
            rows = item.uses.setdefault(node.stage, [])
            rows += [node.row] if node.row not in rows else []
    known = dict(items)
    ordered = [
        part for item in items.values() for part in (*_parts(suite, item, sources, known), item)
    ]
    return list(dict.fromkeys(ordered))


def _and_parents(place: str) -> Iterator[str]:
    yield place
    yield from (parent.as_posix() for parent in Path(place).parents)


def _parts(
    suite: Suite, item: Item, sources: Mapping[str, SourceSettings], known: dict[str, Item]
) -> Iterator[Item]:
    """Yield the files from which a missing item is made, recursively, dependencies first."""
    if item.source is None or item.problem is None:
        return
    for name in item.source.needs:
        source = sources[name]
        part = known.setdefault(source.place, Item(source.place, place_of(suite, source), source))
        part.parts_of.append(item.place)
        yield from _parts(suite, part, sources, known)
        yield part


def place_of(suite: Suite, source: SourceSettings) -> Path:
    """Return the path of an entry's file."""
    paths = suite.nodes[0].config["paths"]
    return Path(paths[source.root]).expanduser() / source.below


def without_files(node: Node) -> bool:
    """Whether a run reads a file that is not there."""
    return not all(needed.is_there for needed in node.needed_files)
