"""Files of data are read here: bounds on their size and depth, one schema, one message.

A reader raises MissingInput for a file that is not there, and WorkFailed that names the file, the
key, what was found and what is allowed. No number is NaN or infinite. See docs/runs.md#formats.
"""

import contextlib
import json
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, overload

from annotated_types import Ge, Len, Predicate
from typing_extensions import TypedDict

from deme.system.errors import DemeError, MissingInput, WorkFailed, first_line
from deme.system.values import DEEP, MAKE_AGAIN, MAX_DEPTH, MAX_VALUES, checked

if TYPE_CHECKING:
    from yaml.nodes import Node

MAX_BYTES = 1 << 28  # of a file of settings, numbers or names
MAX_YAML_BYTES = 1 << 24
SHALLOW = 3000  # characters: a shorter text cannot nest deep enough for libyaml to crash

JsonObject = Mapping[str, Any]
T = TypeVar("T")

Whole = Annotated[int, Ge(0)]
Range = Annotated[  # low <= t < high
    list[Whole], Len(2, 2), Predicate(lambda ends: ends[0] < ends[1])
]


class Export(TypedDict, total=False):
    """What `deme export` wrote into a folder."""

    of: str
    files: dict[str, str]


class About(TypedDict, total=False):
    """deme.json of a model folder: what is known of its weights."""

    range: Range | None
    num_timesteps: Annotated[int, Ge(1)] | None
    num_images: Whole
    base: str | None
    base_model: str | None  # of an adapter: the path of its base
    base_ema: bool  # whether that is the base's averaged weights next to the others
    sample_size: Annotated[list[Annotated[int, Ge(1)]], Len(2, 2)]  # if not that of the configs
    ema: bool | None
    average: str  # of which weights they are the average
    merge: str
    rank: Annotated[int, Ge(1)]  # of a merged adapter
    dropped: float  # share of the squared norm that its rank drops
    projections: str | None
    weights: list[float] | None
    weights_by_name: dict[str, list[float]] | None
    export: Export
    converted: dict[str, str]


def read_text(path: Path, most: int = MAX_BYTES, advice: str = MAKE_AGAIN) -> str:
    """Return the text of a UTF-8 file, without a byte order mark."""
    try:
        if path.exists() and not path.is_file():
            raise MissingInput(f"{path} is {'a folder' if path.is_dir() else 'no file'}")
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError as error:
        raise MissingInput(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MissingInput(f"{path} cannot be read: {reason}") from error
    if len(data) > most:
        raise WorkFailed(f"{path} is too large: more than {most / 2**20:,.0f} MiB are never read")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WorkFailed(
            f"{path} is damaged: it is not UTF-8 at byte {error.start:,}\n{advice}"
        ) from error


@overload
def read_json(path: Path) -> dict[str, Any]: ...
@overload
def read_json(path: Path, kind: type[T], advice: str = ...) -> T: ...
def read_json(path: Path, kind: Any = dict[str, Any], advice: str = MAKE_AGAIN) -> Any:
    """Return the value of a JSON file, which `kind` describes; by default it is an object."""
    return parse_json(read_text(path, advice=advice), path, kind, advice)


def parse_json(text: str, where: object, kind: type[T], advice: str = MAKE_AGAIN) -> T:
    """Return the value of a JSON text, which `kind` describes; `where` it is, for messages."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f" at line {getattr(error, 'lineno', 1)}" if isinstance(where, Path) else ""
        reason = getattr(error, "msg", None) or _reason(error)
        raise WorkFailed(f"{where} is damaged: not JSON{line}: {reason}\n{advice}") from error
    return checked(value, kind, where, advice)


def read_jsonl(path: Path, kind: type[T]) -> list[T]:
    """Return the values of the whole lines of a file; a last line cut by a kill is dropped.

    A missing file is empty.
    """
    if not path.exists():
        return []
    text = read_text(path)
    lines = text[: text.rfind("\n") + 1].split("\n")[:-1]
    return [parse_json(line, f"{path}, line {n}", kind) for n, line in enumerate(lines, 1)]


def read_about(folder: Path) -> About:
    """Return what deme.json says of a model folder, {} without one."""
    file = folder / "deme.json"
    return read_json(file, About) if file.is_file() else {}


def read_cached(path: Path, kind: type[T]) -> T | None:
    """Return the value of a JSON file of the cache, None for a missing or a damaged one."""
    with contextlib.suppress(DemeError):
        return read_json(path, kind)
    return None


def read_yaml(path: Path, kind: type[T]) -> T:
    """Return the value of a YAML file, by the C parser where there is one (five times faster)."""
    node = compose_yaml(path)
    return checked(construct_yaml(node, path) if node is not None else None, kind, path)


def construct_yaml(node: "Node", where: object) -> object:
    """Return the value of a node."""
    from yaml.constructor import SafeConstructor

    try:
        value: object = SafeConstructor().construct_document(node)
    except Exception as error:  # dates that are none, keys that are lists, numbers of 5,000 digits
        raise WorkFailed(f"{where} is damaged: {_reason(error)}\n{MAKE_AGAIN}") from error
    return value


def compose_yaml(path: Path) -> "Node | None":
    """Return the nodes of a YAML file. Aliases may not nest, nor repeat, beyond the bounds."""
    import yaml

    text = read_text(path, MAX_YAML_BYTES)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        if len(text) > SHALLOW and _is_too_deep(text, loader):
            raise RecursionError
        stream = StringIO(text)
        stream.name = str(path)  # of the marks of nodes
        node: Node | None = yaml.compose(stream, loader)
        if node is not None and _expanded(node, MAX_DEPTH, {}) > MAX_VALUES:
            raise ValueError("its aliases stand for too many values")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise WorkFailed(f"{path} is not valid YAML: {_reason(error)}") from error
    return node


def _is_too_deep(text: str, loader: Any) -> bool:
    """Whether a YAML text is nested too deep; composing it would recurse on the C stack."""
    import yaml

    starts = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
    depth = 0
    for event in yaml.parse(text, loader):
        depth += isinstance(event, starts) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:  # the rest takes a time that grows with the square of its depth
            return True
    return False


def _expanded(node: "Node", levels: int, known: dict[int, int]) -> int:
    """Return the number of nodes below one, each alias counted as what it stands for."""
    if levels == 0:
        raise RecursionError
    if id(node) not in known:
        parts = [] if isinstance(node.value, str) else node.value
        children = [n for part in parts for n in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_expanded(child, levels - 1, known) for child in children)
    return known[id(node)]


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return DEEP
    return first_line(ValueError(" ".join(str(error).split())))
