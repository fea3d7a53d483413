"""Values of files and settings: what none of them may be, schemas, and errors in words.

pydantic is imported where it is needed: `deme --help` starts without it.
"""

import contextlib
import functools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from deme.system.errors import WorkFailed

if TYPE_CHECKING:
    from pydantic import TypeAdapter

MAX_DEPTH = 64  # values inside of values
MAX_VALUES = 1 << 24  # of one level
MAX_PLAIN = 1 << 24  # whole numbers below are shown with all digits
DEEP = f"it is nested too deep; at most {MAX_DEPTH} levels are allowed"
INFINITE = "lambda_min_clipped"  # of diffusers' solvers, -inf by default
MAKE_AGAIN = "delete it (or its run directory) and run again"
COPY_AGAIN = "make it again, or copy it again from where it came"

T = TypeVar("T")


def checked(value: object, kind: type[T], where: object, advice: str = MAKE_AGAIN) -> T:
    """Return `value`, which `kind` describes: a type of annotations, a TypedDict for an object.

    Values are as they are in JSON; keys that a TypedDict does not name may be anything.
    """
    if problem := bad_value(value):
        raise WorkFailed(f"{where} is damaged: {problem}\n{advice}")
    from pydantic import ValidationError

    try:
        _adapter(cast(Any, kind)).validate_python(value, strict=True)
    except ValidationError as error:
        problem = described(error.errors(), value)
        if error.errors()[0]["type"].startswith(_OURS):
            raise WorkFailed(f"{where} is not read here: {problem}") from error
        raise WorkFailed(f"{where} is damaged: {problem}\n{advice}") from error
    return cast(T, value)


@functools.cache
def _adapter(kind: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def bad_value(value: object) -> str | None:
    """Return what no value may be, if it is.

    Nested too deep, NaN, infinite or beyond 64 bits, or what is not in JSON: a date, a set.
    """
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[object] = []
        for one in level:
            if isinstance(one, dict):
                if one and {*map(type, one)} not in ({str}, {int}):
                    return f"the keys of {_place(value, one) or 'it'} must be texts"
                inner += [each for key, each in one.items() if key != INFINITE]
            elif isinstance(one, (list, tuple)):
                inner += one
            elif isinstance(one, float) and not math.isfinite(one):
                return f"{_place(value, one) or 'it'} must be a finite number; got {one}"
            elif isinstance(one, int) and not -(2**63) <= one < 2**63:
                return f"{_place(value, one) or 'it'} must be a number of at most 64 bits"
            elif one is not None and not isinstance(one, (str, float, int)):
                place = _place(value, one) or "it"
                return f"{place} must be a text, a number or the like; got {shown(one)}"
        if len(inner) > MAX_VALUES:
            return "it holds too many values"
        if not inner:
            return None
        level = inner
    return DEEP


def _place(value: object, wanted: object) -> str | None:
    """Return the dotted key of a value in another one, "" for that one itself."""
    if value is wanted:
        return ""
    parts = value.items() if isinstance(value, dict) else ()
    for key, each in enumerate(value) if isinstance(value, (list, tuple)) else parts:
        if (found := _place(each, wanted)) is not None:
            return f"{key}.{found}" if found else str(key)
    return None


def described(errors: Sequence[Any], value: object) -> str:
    """Return the first of pydantic's errors about a value as a sentence.

    It says which key, what is allowed and what was found. A key that may be of several types has an
    error for each of them.
    """
    key, found = _located(errors[0], value)
    if errors[0]["type"] == "missing":
        return f"{'.'.join([*key, str(errors[0]['loc'][-1])])} is missing"
    same = [allowed(error) for error in errors if _located(error, value)[0] == key]
    return f"{'.'.join(key) or 'it'} must be {either(same)}; got {shown(found)}"


def either(texts: Iterable[str]) -> str:
    """Return what is allowed, one of several things, as a text."""
    return ", or ".join(dict.fromkeys(texts))


def _located(error: Any, value: object) -> tuple[list[str], object]:
    """Return the keys that lead to what an error is about, without names of types, and that."""
    keys: list[str] = []
    for part in error["loc"]:
        with contextlib.suppress(KeyError, IndexError, TypeError):
            value = cast(Any, value)[part]
            keys.append(str(part))
    return keys, value


def allowed(error: Any, group: str = "an object {<key>: <value>, ...}") -> str:
    """Return what pydantic's error says is allowed, in words; `group`: what a mapping is."""
    context = error.get("ctx", {})
    if error["type"].startswith(("dict", "mapping", "dataclass", "model")):
        return group
    if error["type"] == "literal_error":
        text = "one of " + context["expected"].replace("'", "").replace(" or ", ", ")
    elif error["type"] == "value_error":
        text = str(context["error"])
    else:
        text = next(
            (text for word, text in _WORDS.items() if error["type"].startswith(word)), error["msg"]
        )
        if text == "a number" and any(type(context.get(name)) is int for name in _BOUNDS):
            text = "a whole number"
    bounds = (
        f", {word} {_number(context[name])}" for name, word in _BOUNDS.items() if name in context
    )
    lengths = (
        f" of {word} {context[name]} values"
        for name, word in _LENGTHS.items()
        if name in context and text == "a list"
    )
    return text + "".join([*bounds, *lengths])


def _number(bound: float) -> str:
    whole = isinstance(bound, int) or (bound.is_integer() and abs(bound) < MAX_PLAIN)
    return f"{int(bound):,}" if whole else f"{bound:g}"


def shown(value: object) -> str:
    """Return a value as it is shown in a message: escaped, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


_OURS = ("less_than", "too_long", "string_too_long")  # errors of a bound that we have set
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_LENGTHS = {"min_length": "at least", "max_length": "at most"}
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "greater": "a number",
    "less": "a number",
    "bool": "true or false",
    "string_too_short": "a name",
    "string_too_long": "a shorter text",
    "string_pattern": "<owner>/<name>",  # of the Hugging Face Hub, the only pattern in use
    "string": "a text",
    "list": "a list",
    "tuple": "a list",
    "too_short": "a list",
    "too_long": "a list",
    "predicate": "ascending",  # a Range, the only predicate in use
}
