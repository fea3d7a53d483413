"""How a resolved configuration becomes a settings object: keys, types and bounds are checked once.

Every command and every option group has one frozen dataclass in this folder. Its fields have the
names of the keys in conf/, which documents a key and holds its default; the dataclass declares its
type and which values are allowed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, Required, TypeVar, cast, get_args, get_type_hints

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

from deme.runs.config_errors import groups, options
from deme.system import (
    FILE_NAME_RULE,
    BadConfig,
    allowed,
    bad_value,
    did_you_mean,
    first_lines,
    is_file_name,
    shown,
    single_line,
)
from deme.system.diffusers_configs import NetworkArguments, SchedulerArguments

STRICT = ConfigDict(extra="forbid")


def key(meaning: str, example: object) -> object:
    """Attach a description and an example to a key, for help pages and docs."""
    return Field(description=meaning, examples=[example])


GROUP = "a group of keys, such as <group>.<key>=<value>"

MOST = 2**31 - 1  # of whatever is counted
PROCESSES = 1024
LARGE = 1e9  # of numbers that are no counts

Switch = Annotated[bool, Field(strict=True)]
Whole = Annotated[int, Field(ge=0, le=MOST, strict=True)]
Count = Annotated[int, Field(ge=1, le=MOST, strict=True)]
BatchSize = Annotated[int, Field(ge=1, le=1 << 20, strict=True)]
TwoOrMore = Annotated[int, Field(ge=2, le=MOST, strict=True)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1, strict=True)]
Processes = Annotated[int, Field(ge=1, le=PROCESSES, strict=True)]
Ranges = Annotated[int, Field(ge=1, le=10_000, strict=True)]  # of timesteps
Shown = Annotated[int, Field(ge=1, le=10_000, strict=True)]  # images of a grid
Replicates = Annotated[int, Field(ge=2, le=1_000_000, strict=True)]
Pixels = Annotated[int, Field(ge=1, le=1 << 16, strict=True)]  # per side
Number = Annotated[float, Field(ge=-LARGE, le=LARGE, strict=True)]
NotNegative = Annotated[float, Field(ge=0, le=LARGE, strict=True)]
Positive = Annotated[float, Field(ge=1 / LARGE, le=LARGE, strict=True)]
LearningRate = Annotated[float, Field(ge=1e-12, le=1e3, strict=True)]
Time = Annotated[float, Field(gt=0, le=1e7, strict=True)]  # seconds or minutes
Hours = Annotated[float, Field(gt=0, le=1e5, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
Fraction = Annotated[float, Field(gt=0, le=1, strict=True)]
# relative width of an average over training steps; 1 / sqrt(12) is that of their plain mean
Length = Annotated[float, Field(ge=0.01, le=0.288, strict=True)]
Guidance = Annotated[float, Field(ge=1, le=1e6, strict=True)]
Name = Annotated[str, Field(min_length=1, max_length=4096)]  # as long as a path can be


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
Several = TypeVar("Several", bound=Sequence[object])


class Arguments(TypedDict, total=False):
    """The numbers and switches of the options in conf/, and what is allowed in all of them.

    An option's class may allow less.
    """

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    _target_: Required[Name]
    alpha: Positive | None
    altered: Count
    antithetic: Switch
    batch_size: Count
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)]
    blur: list[Positive]
    boundaries: Annotated[list[Whole], Field(min_length=2)]
    caption_dropout: Share
    channels: Count | None
    clip_sample: Switch
    consistency_weight: NotNegative | list[NotNegative]
    counts: list[Count]
    denoising_weight: NotNegative
    density: Fraction
    download: Switch
    draws: Count
    drop: Share
    ema_length: Length
    ema: Switch
    eps: NotNegative
    eta: Share
    fused: Switch | None
    gamma: NotNegative
    held_out_fraction: Fraction
    high: Number | None
    in_memory: Switch | None
    inv_gamma: Positive
    jpeg: list[Count]
    k: Positive
    layer: Count
    length: Length
    levels: Annotated[list[Share], Field(min_length=2)]
    lookahead: Count | None
    low: Number | None
    lr: LearningRate
    max_decay: Fraction
    max_evaluations: Count
    max_weight: Positive | None
    mean: Number
    nearest_k: Count
    noise: list[Positive]
    normalize: Switch
    num_bins: Ranges
    num_directions: Count
    num_groups: TwoOrMore
    num_images: TwoOrMore
    num_inference_steps: Count
    num_iterations: Count
    num_prompts: Count | None
    num_ranges: Ranges
    order: Count
    parts: Mapping[str, Name | None]
    per_prompt: Count
    points: Count
    population: BatchSize | None
    power: Positive
    probability: Share
    random_flip: Switch
    rank: Count
    refresh_every: Count
    replicates: Replicates
    ridge: NotNegative
    rounds: Count
    scale: Number
    scheduler: SchedulerArguments
    seed: Seed
    set_alpha_to_one: Switch
    sampler: Mapping[str, Any]
    set_size: Count
    shift: Positive | None
    sigma: Positive
    size: Pixels | None
    std: Positive
    step: Positive
    steps: Annotated[list[Count], Field(min_length=1)] | None
    steps_offset: Whole
    until: Count | None
    sum: Number | None
    sweeps: Count
    targets: Annotated[list[Name], Field(min_length=1)] | None
    unet: NetworkArguments
    warmup_steps: Whole
    weight_decay: NotNegative


OWN = ("deme.", "torch.")  # packages of the classes whose arguments are named above


def as_given(option: Any, validate: Callable[[Any], object]) -> dict[str, Any]:
    """Return a checked option as it was given: keys in this order, a whole number as one.

    In a class outside of deme an argument of the same name may mean something else.
    """
    target = option.get("_target_") if isinstance(option, Mapping) else None
    is_own = not isinstance(target, str) or target.startswith(OWN)
    validate(option if is_own else {"_target_": target})
    return dict(option)


# {_target_: <class>, <argument>: <value>, ...}: what builders/ makes an object of
Option = Annotated[
    Mapping[str, Any],
    GetPydanticSchema(lambda _, schema_of: schema_of(Arguments)),
    WrapValidator(as_given),
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


def different(values: Several) -> Several:
    """Return values that are given once each. Raises ValueError for others."""
    if not values or len({*values}) < len(values):
        raise ValueError("a list of different values, at least one")
    return values


def build(kind: type[T], config: Config, texts: bool = False) -> T:
    """Return the settings of a resolved config. Raises BadConfig with a line per wrong key.

    `texts`: values are as they were typed, "3" for 3 and "true" for True.
    """
    adapter = TypeAdapter(kind)
    # labels repeat other keys, which are the ones to name
    labelled = {key: value for key, value in config.items() if key != "cell"}
    if problem := bad_value(labelled) or bad_value(config):
        raise BadConfig(problem)
    try:
        return adapter.validate_strings(config) if texts else adapter.validate_python(config)
    except ValidationError as error:
        lines = [explanation(kind, each) for each in error.errors()]
        raise BadConfig(first_lines([*dict.fromkeys(lines)])) from error


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
            info.alias or name  # as it is typed
            for one in (group, *get_args(group))
            if is_dataclass(one)
            for name, info in cast(Any, one).__pydantic_fields__.items()
        ]
        key = ".".join(map(str, error["loc"]))
        near = did_you_mean(str(error["loc"][-1]), known)
        return f"unknown key {key}; {near}allowed: {', '.join(known)}"
    if error["type"] == "missing":
        if key in groups():
            return f"{key} must be given; allowed: {', '.join(options(key))}\ntype: {key}=<option>"
        return f"{key} must be given\ntype: {key}=<value>"
    null = ", or null" if type(None) in get_args(shape) else ""
    return f"{key} must be {allowed(error, GROUP)}{null}; got {shown(error['input'])}"


def kind_at(kind: Any, path: Sequence[str]) -> Any:
    """Return the type of the key at `path` of a settings dataclass, None if none is declared."""
    for name in path:
        groups = [each for each in (kind, *get_args(kind)) if is_dataclass(each)]
        kind = get_type_hints(groups[0] if groups else Arguments).get(name)
    return kind
