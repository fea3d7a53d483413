"""Texts that distinguish runs: their inputs, and the settings that differ from the defaults.

The defaults are those of the experiment and the options of a run, which its configuration records
(`overrides`). The texts therefore depend on the run alone. A configuration is given as a dictionary
of values by dotted keys.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from deme.runs.composed import Flat, defaults, flat
from deme.runs.config_errors import groups, options
from deme.runs.identity import changes_no_result
from deme.runs.settings import CELL_LETTERS, HASHED_PATH_KEYS
from deme.system import SNAPSHOTS, BadConfig, conf_dir, printable, read_text, read_yaml

DEFAULT_LABELS = {
    "merge": "merged", "search": "searched", "average": "averaged", "evaluate": "evaluated",
}  # fmt: skip
OVERRIDE = re.compile(r"(?P<sign>[+~]*)(?P<key>[\w/.]+)(?:@[\w.:]+)?(?:=(?P<value>.*))?", re.DOTALL)
ID = re.compile(r"-[0-9a-f]{10}$")
READERS = {"diffusers", "image_folder"}  # options that only select how a path is read
COMMON_OPTIONS = {"none", "default"}  # names of options that are meaningless without their group
VALUE_IS_ENOUGH = {"source", "dtype", "compute_dtype", "precision", "run_weights", "held_out_part"}
# last parts of keys that are too vague without the part before
VAGUE = {"every", "high", "low", "max", "name", "normalize", "points", "seed", "size", "steps"}
MAX_PART, MAX_OF = 30, 44  # characters of a setting, and of the inputs
MOST = 1000
TARGET = "_target_"
LABEL = "cell.method"


def is_labelled_by_user(overrides: Sequence[str]) -> bool:
    """Whether the command line or a suite gave the run a label."""
    return any(word.lstrip("+").startswith("cell.method=") for word in overrides)


def given_inputs(overrides: Sequence[str]) -> list[str]:
    """Return the names of the inputs that were typed, without those that a suite fills in."""
    found = {
        key.split(".")[1]: None
        for key, word in _keys(overrides).items()
        if key.startswith("inputs.") and word.partition("=")[2] not in ("", "null", "[]")
    }
    return list(found)


def inputs_text(values: Flat) -> str:
    """Return the names of the typed inputs; for an evaluation, the name of the evaluated model."""
    names = given_inputs(values.get("overrides", []))
    texts = [stem for name in names if (stem := _stem_of_all(values, f"inputs.{name}"))]
    is_default = values.get(LABEL) == DEFAULT_LABELS.get(values["stage"])
    if not texts and is_default and values.get("source") == "weights":
        texts = [stem_of(values.get("model.path"))]
    whole = _safe("-".join(texts), MOST)
    return (
        whole if len(whole) <= MAX_OF else whole[: MAX_OF + 1].rpartition("-")[0] or whole[:MAX_OF]
    )


def changed_settings(values: Flat) -> list[str]:
    """Return the settings that differ from the defaults as short texts: lr5e-4, steps250.

    Without recorded overrides, the defaults are those of the command.
    """
    stage, overrides = values["stage"], values.get("overrides", [])
    given = _keys(overrides)
    experiment = [word for word in overrides if word.startswith("experiment=")]
    choices = [word for key, word in given.items() if key in groups() and key != "experiment"]
    before = _defaults(stage, experiment)
    chosen = _defaults(stage, [*experiment, *choices])
    found = _experiment(values, given.get("experiment", ""))
    found += _options(values, choices, before, chosen)
    position = {key: number for number, key in enumerate(given)}
    pairs = [
        (position.get(key, -1), _value_text(key, value))
        for key, value in values.items()
        if (not given or key in given) and _counts(values, key, chosen, value)
    ]
    pairs.sort(key=lambda pair: -pair[0])  # what is swept was put last
    removed = [f"no_{_short(key)}" for key, word in given.items() if word.startswith("~")]
    texts = [*found, *(text for _, text in pairs), *removed]
    return [text for text in dict.fromkeys(map(_safe, texts)) if text]


def _keys(overrides: Sequence[str]) -> dict[str, str]:
    """Return the override of each key; if a key is given several times, the last one."""
    found: dict[str, str] = {}
    for word in overrides:
        if match := OVERRIDE.fullmatch(word):
            found.pop(match["key"], None)
            found[match["key"]] = word
    return found


def _defaults(stage: str, choices: Sequence[str]) -> Flat | None:
    try:
        return defaults(stage, tuple(choices))
    except BadConfig:  # an option of the user's own configuration folder
        return None


def _counts(values: Flat, key: str, chosen: Flat | None, value: object) -> bool:
    """Whether a value is part of the text: it can change the result, and is not the default."""
    top, _, rest = key.partition(".")
    told_otherwise = (
        top in ("stage", "overrides", "swept", *CELL_LETTERS)
        or rest == TARGET
        or key.rpartition(".")[2] in HASHED_PATH_KEYS  # the content counts, not the path
        or (top == "source" and is_labelled_by_user(values.get("overrides", [])))
    )
    is_neutral = key != "run_weights" and changes_no_result(values["stage"], key)
    if told_otherwise or is_neutral:
        return False
    if chosen is None:
        return True
    if key in chosen and key not in values.get("swept", []):
        refers = isinstance(chosen[key], str) and "${" in chosen[key]
        return not refers and chosen[key] != value
    return bool(values.get("overrides"))


def _experiment(values: Flat, override: str) -> list[str]:
    """Return the name of the experiment, unless the experiment sets the label of the run."""
    name = override.partition("=")[2].rpartition("/")[2]
    label = str(values.get(LABEL))
    labels_itself = label not in (DEFAULT_LABELS.get(values["stage"]), *options("method"))
    return [] if labels_itself or name in (label, values["stage"]) else [name]


def _options(
    values: Flat, choices: Sequence[str], before: Flat | None, chosen: Flat | None
) -> list[str]:
    """Return the names of options that were chosen or added instead of the default ones."""
    found = []
    label = str(values.get(LABEL))
    for word in choices:
        group, _, option = word.partition("=")
        if changes_no_result(values["stage"], group):
            continue
        is_reported = before is None or chosen is None or group in values.get("swept", [])
        if is_reported or _part(before or {}, group) != _part(chosen or {}, group):
            found.append(_option_text(values["stage"], label, group, option))
        elif group == "debug":
            found.append("debug")
    if not values.get("overrides"):  # not composed from any
        targets = {key: value for key, value in values.items() if key.endswith(f".{TARGET}")}
        for key, target in targets.items():
            group = key.removesuffix(f".{TARGET}")
            if group in groups() and target != (chosen or {}).get(key):
                option = option_of(group, values)
                found.append(_option_text(values["stage"], label, group, option))
    return found


def _part(values: Flat, group: str) -> Flat:
    return {key: value for key, value in values.items() if key.partition(".")[0] == group}


def option_of(group: str, values: Flat) -> str:
    """Return the option of a group that a configuration has, else the name of its class.

    If several options have the same class, it is the one whose own values the configuration has; if
    none or several of them match, the name of the class.
    """
    name = str(values[f"{group}.{TARGET}"]).rpartition(".")[2]
    found = _options_of(group, name)
    if len(found) > 1:
        shared = {option: _shared(values, group, own) for option, own in found.items()}
        most = max((number for number in shared.values() if number is not None), default=0)
        found = {option: own for option, own in found.items() if shared[option] == most}
    return next(iter(found)) if len(found) == 1 else name


def _shared(values: Flat, group: str, own: Mapping[str, Any]) -> int | None:
    """Return how many values of an option a configuration has, None if any value differs."""
    given = {
        key: value
        for key, value in flat(own).items()
        if key != "defaults" and value != "???" and "${" not in str(value)
    }
    has_all = all(values.get(f"{group}.{key}") == value for key, value in given.items())
    return len(given) if has_all else None


@functools.cache
def _options_of(group: str, name: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the options of a group that have a certain class, each with its other values."""
    found = {}
    for option in options(group) if group in groups() else ():
        file = conf_dir() / group / f"{option}.yaml"
        if {TARGET, name} <= {*re.findall(r"\w+", read_text(file))}:
            own = read_yaml(file, dict[str, Any])
            if str(own.pop(TARGET, "")).rpartition(".")[2] == name:
                found[option] = own
    return found


def _option_text(stage: str, label: str, group: str, option: str) -> str:
    """Return the text of a chosen option, with its group if its name alone is too vague."""
    name = option.rpartition("/")[2]
    if name in READERS or name == "" or (group == "method" and name == label):
        return ""
    alike = sum(option in options(other) for other in groups())
    unclear = name in COMMON_OPTIONS or (alike > 1 and group != stage)
    return f"{group}_{name}" if unclear else name


def _value_text(key: str, value: Any) -> str:
    """Return a setting as text: its short key and its value."""
    short, last = _short(key), key.rpartition(".")[2]
    if value is None or value is False:
        return f"no_{short}"
    if value is True or isinstance(value, Mapping):
        return short
    text = value_text(value)
    if last in VALUE_IS_ENOUGH:
        return text
    if isinstance(value, list) and len(text) > MAX_PART - len(short):
        text = f"_{len(value)}_values"
    return short + ("" if text[:1].isdigit() or text[:1] in "-_" else "_") + text


def _short(key: str) -> str:
    *parents, last = key.split(".")
    short = last.removeprefix("num_").replace("batch_size", "batch")
    return f"{parents[-1]}_{short}" if last in VAGUE and parents else short


def value_text(value: Any) -> str:
    """Return a value in few characters: 5e-4 for 0.0005; the items of a list are joined by +."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "+".join(map(value_text, value))
    if isinstance(value, int) and not 10**6 <= abs(value) < 10**15:
        return str(value)
    if isinstance(value, (int, float)):
        if value == 0 or 0.01 <= abs(value) < 1e5 or not math.isfinite(value):
            return f"{value:.6g}"
        digits, _, exponent = f"{value:.5e}".partition("e")
        return f"{float(digits):g}e{int(exponent)}"
    text = str(value)
    return stem_of(text) if "/" in text or ":" in text else text.rpartition(".")[2] or text


def stem_of(place: Any) -> str:
    """Return the short name of a path or locator, a run without its id: finetune-s0, my_model."""
    if not isinstance(place, str):
        return ""
    parts = PurePosixPath(place.partition(":")[2] if ":" in place else place).parts
    if "weights" in parts[1:]:  # of a run
        index = len(parts) - 1 - parts[::-1].index("weights")
        kind = [part for part in parts[index + 1 :] if part not in ("ema", "merged", "averaged")]
        if kind[:1] == [SNAPSHOTS]:
            kind = [f"step{part.lstrip('0')}" for part in kind[1:2]]
        return "-".join([ID.sub("", parts[index - 1]), *kind])
    return ID.sub("", parts[-1]) if parts else ""


def _stem_of_all(values: Flat, key: str) -> str:
    """Return the common part of the names of an input's runs: deme-s0 for all its experts."""
    value = values.get(key)
    if f"{key}.stage" in values:  # runs that are looked for by their labels
        return str(values.get(f"{key}.cell.method", ""))
    places = value if isinstance(value, list) else [value]
    stems = [stem.split("-") for place in places if (stem := stem_of(place))]
    if not stems:
        return ""
    common = [part for part in stems[0] if all(part in other for other in stems)]
    return "-".join(common) or f"{len(stems)}_models"


def _safe(text: str, longest: int = MAX_PART) -> str:
    """Return a text reduced to characters that a file name may have, and to a length."""
    kept = re.sub(r"[^A-Za-z0-9_.+-]+", "_", printable(text))
    return kept[:longest].strip("_.-+")
