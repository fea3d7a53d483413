"""How a resolved configuration becomes a settings object: keys, types and bounds are checked once.

Every command and every option group has one frozen dataclass in this folder. Its fields have the
names of the keys in conf/, which documents a key and holds its default; the dataclass declares its
type and which values are allowed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Required, TypeVar, get_args, get_type_hints

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    TypeAdapter,
    ValidationError,
    WrapValidator,
)
from typing_extensions import TypedDict

from deme.system import (
    FILE_NAME_RULE,
    BadConfig,
    did_you_mean,
    is_file_name,
    shortened,
    single_line,
)

STRICT = ConfigDict(extra="forbid")

Switch = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
TwoOrMore = Annotated[int, Field(ge=2, strict=True)]
NonNegative = Annotated[int, Field(ge=0, strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1, strict=True)]
Guidance = Annotated[float, Field(ge=1, strict=True, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]


def _file_name(text: str) -> str:
    if not is_file_name(text):
        raise ValueError(FILE_NAME_RULE)
    return text


def _folder_here(text: str) -> str:
    place = Path(text)
    if place.is_absolute() or ".." in place.parts:
        raise ValueError("a folder below the current one")
    return text


def _line(text: str) -> str:
    if not text or single_line(text, MAX_TEXT) != text:
        raise ValueError(f"a line of at most {MAX_TEXT} characters")
    return text


MAX_TEXT = 300
FileName = Annotated[str, AfterValidator(_file_name)]  # of a folder or file that deme writes
FolderHere = Annotated[str, AfterValidator(_folder_here)]
Line = Annotated[str, AfterValidator(_line)]  # what tables and messages show

Config = dict[str, Any]  # a resolved configuration, as it is frozen in a run directory
T = TypeVar("T")


class ChangesNoResult:
    """Marks a key, or these keys of a group, that change no result: not part of the identity."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys


NO_RESULT = ChangesNoResult()


class Arguments(TypedDict, total=False):
    """Arguments that mean the same in all options; an option's class checks the others."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    _target_: Required[str]
    antithetic: Switch
    clip_sample: Switch
    download: Switch
    fused: Switch | None
    num_bins: Count
    num_images: TwoOrMore
    num_inference_steps: Count
    num_ranges: Count
    random_flip: Switch
    refresh_every: Count
    seed: NonNegative
    size: Count | None
    warmup_steps: NonNegative


def in_given_order(option: Any, validate: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Return a checked option with its keys in the order in which they were given."""
    checked = validate(option)
    return {key: checked[key] for key in option}


# {_target_: <class>, <argument>: <value>, ...}: what builders/ makes an object of
Option = Annotated[
    Mapping[str, Any],
    GetPydanticSchema(lambda _, schema_of: schema_of(Arguments)),
    WrapValidator(in_given_order),
]


def without_null(options: object) -> object:
    """Return named options without those set to null."""
    if not isinstance(options, Mapping):
        return options or {}
    return {name: option for name, option in options.items() if option}


# {<name>: <option>, ...}, where null takes out a name that another option file has put in
Options = Annotated[Mapping[str, Option], BeforeValidator(without_null)]
# data=none is an empty file
OptionalOption = Annotated[Option | None, BeforeValidator(lambda value: value or None)]


def placed(config: Config, runs: Path, inputs: Mapping[str, list[str]]) -> Config:
    """Return a config with this folder of runs and these inputs; inputs not given are null."""
    paths = {**config["paths"], "runs": str(runs)}
    return {**config, "inputs": {**dict.fromkeys(config["inputs"]), **inputs}, "paths": paths}


def build(kind: type[T], config: Config, texts: bool = False) -> T:
    """Return the settings of a resolved config. Raises BadConfig with a line per wrong key.

    `texts`: values are as they were typed, "3" for 3 and "true" for True.
    """
    adapter = TypeAdapter(kind)
    try:
        return adapter.validate_strings(config) if texts else adapter.validate_python(config)
    except ValidationError as error:
        lines = [explanation(kind, each) for each in error.errors()]
        raise BadConfig("\n".join(dict.fromkeys(lines))) from error


def refuse(broken: object, message: str) -> None:
    """Raise BadConfig(message) if a rule about several keys is broken."""
    if broken:
        raise BadConfig(message)


def explanation(kind: type, error: Any) -> str:
    """Return one of pydantic's errors as a sentence: which key, what is allowed, what was given."""
    context = error.get("ctx", {})
    if isinstance(context.get("error"), BadConfig):  # a rule about several keys, which says it all
        return str(context["error"])
    path = [
        str(part) for part in error["loc"] if re.fullmatch(r"\w+", str(part))
    ]  # not "list[constrained-int]"
    key, shape = ".".join(path), kind_at(kind, path)
    if error["type"] == "unexpected_keyword_argument":
        group = kind_at(kind, path[:-1])
        known = [
            each.name
            for one in (group, *get_args(group))
            if is_dataclass(one)
            for each in fields(one)
        ]
        return f"unknown key {key}; {did_you_mean(path[-1], known)}allowed: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{key} must be given\ntype: {key}=<value>"
    if error["type"] == "literal_error":
        allowed = "one of " + context["expected"].replace("'", "").replace(" or ", ", ")
    elif error["type"] == "value_error":
        allowed = str(context["error"])
    else:
        allowed = next(
            (text for word, text in _WORDS.items() if error["type"].startswith(word)), error["msg"]
        )
    allowed += "".join(
        f", {word} {context[name]:g}" for name, word in _BOUNDS.items() if name in context
    )
    null = ", or null" if type(None) in get_args(shape) else ""
    return f"{key} must be {allowed}{null}; got {shortened(repr(error['input']))}"


def kind_at(kind: Any, path: Sequence[str]) -> Any:
    """Return the type of the key at `path` of a settings dataclass, None if none is declared."""
    for name in path:
        groups = [each for each in (kind, *get_args(kind)) if is_dataclass(each)]
        kind = get_type_hints(groups[0] if groups else Arguments).get(name)
    return kind


_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "greater": "a number",
    "less": "a number",
    "bool": "true or false",
    "string_too_short": "a name",
    "string_pattern": "<owner>/<name>",  # of the Hugging Face Hub, the only pattern in use
    "string": "a text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a group of keys, such as <group>.<key>=<value>",
    "mapping": "a group of keys, such as <group>.<key>=<value>",
    "dataclass": "a group of keys, such as <group>.<key>=<value>",
}
