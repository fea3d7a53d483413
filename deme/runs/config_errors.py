"""Turn the errors of Hydra and OmegaConf into one message: what is wrong, allowed, to type."""

import contextlib
import functools
import re
import shlex
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import hydra
import omegaconf
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from deme.runs.overrides import as_value
from deme.runs.trusted import option_files
from deme.system import PACKAGE, BadConfig, conf_dir, did_you_mean, first_line, shown
from deme.system.values import MAX_DEPTH

LAUNCHERS = ("basic", "joblib", "submitit_local", "submitit_slurm", "ray")  # of Hydra's sweeps
# groups that are often given a learning rate, and the keys of learning rates
RATES_OF, RATES = ("learning_rate", "optimizer"), ("optimizer.lr", "lr")
HYDRAS = [Path(str(package.__file__)).parent for package in (hydra, omegaconf)]


@contextlib.contextmanager
def config_errors(stage: str = "", overrides: Sequence[str] = ()) -> Iterator[None]:
    """Raise BadConfig for whatever Hydra or OmegaConf raise in the block.

    It composes a command's configuration with `overrides`, whose choices of options decide which
    keys there are.
    """
    if any(max(map(word.count, "[{(")) > MAX_DEPTH for word in overrides):
        raise BadConfig(f"an override is nested too deep; at most {MAX_DEPTH} brackets are allowed")
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise BadConfig(explain(error, stage, overrides)) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        if not _is_hydras(error):
            raise
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise BadConfig(
            f"a file of the configuration is not valid YAML: {' '.join(reason.split())}"
        ) from error
    except (TypeError, AttributeError) as error:
        if not _is_hydras(error):
            raise
        raise BadConfig(_no_option_name(error, stage, overrides)) from error
    except ValueError as error:
        if str(error).startswith("Config group override"):
            raise BadConfig(_no_option_name(error, stage, overrides)) from error
        if "integer string conversion" in str(error):
            raise BadConfig("an override has a number of too many digits") from error
        raise


def _no_option_name(error: Exception, stage: str, overrides: Sequence[str]) -> str:
    """Return the message for an option group that was given a number, a truth value or null."""
    parser = OverridesParser.create()
    for word in overrides:
        parsed = parser.parse_override(word)
        group, given = parsed.key_or_group, word.partition("=")[2]
        if group in groups() and not isinstance(parsed.value(), str):
            meant = [key for key in RATES if key in keys(stage)] if group in RATES_OF else []
            if not meant and f"deme {stage}" not in _stages_with(group):
                return _unknown_key(group, keys(stage), stage)
            is_number = type(parsed.value()) in (int, float)
            advice = f"{meant[0]}={given}" if meant and is_number else f"{group}=<option>"
            return (
                f"{group} takes the name of an option, got {given}; allowed: "
                f"{', '.join(options(group))}\ntype: {advice}"
            )
    return (
        f"an option group takes the name of an option: {first_line(error)}\ntype: <group>=<option>"
    )


def _is_hydras(error: BaseException) -> bool:
    """Whether an error comes from Hydra or OmegaConf, not from a command that Hydra calls."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if any(Path(frame.filename).is_relative_to(place) for place in (*HYDRAS, PACKAGE)):
            return not Path(frame.filename).is_relative_to(PACKAGE)
    return False


def explain(error: Exception, stage: str, overrides: Sequence[str] = ()) -> str:
    """Return what was given, what is allowed and what to type."""
    text = str(error).split("\n    full_key")[0]
    if option := re.search(r"Could not find '([^']+)'", text):
        group, _, name = option[1].rpartition("/")
        top, _, folder = group.partition("/")
        if top in groups():
            inside = [choice for choice in options(top) if choice.startswith(folder)]
            allowed = [choice.removeprefix(f"{folder}/") for choice in inside]
            if group in ("data", "model"):  # a folder can be given, too
                return _no_folder(group, name, allowed)
            near = did_you_mean(name, allowed)
            return f"unknown option {group}={name}; {near}allowed: {', '.join(allowed)}"
        if top == "hydra":  # a launcher or a sweeper
            near = did_you_mean(name, LAUNCHERS)
            others = f"; {near}known ones: {', '.join(LAUNCHERS)}" if folder == "launcher" else ""
            return f"{group}={name} is not an installed plugin of Hydra{others}"
        near = did_you_mean(name, groups())
        return f"unknown group {name!r}; {near}allowed: {', '.join(groups())}"
    if key := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(key[1], [*keys(stage, overrides), "experiment"], stage)
    if absent := re.search(r"Could not delete from config. '([^']+)' does not exist", text):
        known = keys(stage, overrides)
        if absent[1] not in known:
            return _unknown_key(absent[1], known, stage)
        return f"{absent[1]} has no value that ~{absent[1]} could delete\nleave ~{absent[1]} out"
    if isinstance(error, (MissingMandatoryValue, InterpolationToMissingValueError)):
        name = getattr(error, "full_key", "") or "a value"
        return f"{name} must be given\ntype: {name}=<value>"
    if isinstance(error, InterpolationKeyError) and (absent := re.search(r"key '([^']+)'", text)):
        return (
            f"{absent[1]} must be given: {error.full_key or 'another key'} refers to it\n"
            f"type: {absent[1]}=<value>"
        )
    malformed = isinstance(error, OverrideParseException) and not re.match(
        r"[+~]*[\w./@:-]+=", error.override
    )
    if malformed or text.startswith("Could not override ''"):
        given = getattr(error, "override", "=")
        return (
            f"{shown(given)} is not <key>=<value>\ntype: deme {stage or '<command>'} <key>=<value>"
        )
    if isinstance(error, OverrideParseException):
        reason = text.splitlines()[0].replace(error.override, "").strip(" :")
        return f"cannot read the override {shown(error.override)}: {reason:.80}" + _as_text(
            error.override
        )
    if several := re.search(r"Ambiguous value for argument '([^\n]*)'", text):
        name, _, given = several[1].partition("=")
        return (
            f"{shown(several[1])} has commas: one value with commas is quoted, a list is in "
            f"brackets, a sweep takes -m{_as_text(several[1])}, or {name}=[{given:.80}], or -m"
        )
    cause = str(error.__cause__ or "").split("\n")[0]
    return " ".join(f"{text}: {cause}".split()) if cause else " ".join(text.split())


def _no_folder(group: str, name: str, allowed: list[str]) -> str:
    """Return the message for a name that is neither an option nor a folder."""
    folders = [place.name for place in Path.cwd().iterdir() if place.is_dir()]
    near = did_you_mean(name, [*allowed, *folders])
    return (
        f"unknown option {group}={name}, and there is no folder {name} in {Path.cwd()}; {near}"
        f"allowed: {', '.join(allowed)}\ntype: {group}=<option>, or {group}=<folder>"
    )


def _as_text(override: str) -> str:
    """Return a line on how to type the override with a value that has special characters."""
    key, _, value = override.partition("=")
    if not (found := dict.fromkeys(re.findall(r"[=#,()\[\]{}:'\"]", value))) or len(value) > 80:
        return ""
    command = shlex.quote(f"{key}={as_value(value)}")
    return f"\nto take {' '.join(found)} as part of a text, type: {command}"


def _unknown_key(key: str, known: list[str], stage: str) -> str:
    parent, _, last = key.rpartition(".")
    # of another group, such as optimizer.lr for lr
    same = [each for each in known if each.rpartition(".")[2] in (last, f"num_{last}")]
    near = f"did you mean '{same[0]}'? " if len(same) == 1 else did_you_mean(key, known)
    if parent and parent in known:
        inside = [
            each.removeprefix(f"{parent}.")
            for each in known
            if each.startswith(f"{parent}.") and "_target_" not in each
        ]
        allowed = ", ".join(inside) or "(none)"
        if others := _options_with(parent, key.removeprefix(f"{parent}.")):
            option = others[0] if len(others) == 1 else f"{parent}=<option>"
            return (
                f"unknown key {key!r}: only {', '.join(others)} has such a key\n"
                f"type: {option} {key}=<value>"
            )
        return f"unknown key {key!r}; {near}keys of {parent}: {allowed}"
    if key in groups():
        sweep = "\nfor the jobs of a sweep, type: -m hydra/launcher=<launcher>"
        stages = ", ".join(_stages_with(key))
        return f"{key} is no group of `deme {stage}`, but of {stages}" + sweep * (key == "launcher")
    top = ", ".join(sorted({each.split(".")[0] for each in known}))
    if not near and (owner := _option_of_stage(key, stage)):
        return (
            f"unknown key {key!r}; {owner} has such a key\n"
            f"type: {owner} {owner.partition('=')[0]}.{key}=<value>"
        )
    return f"unknown key {key!r}; {near}keys of `deme {stage}`: {top}"


def _option_of_stage(name: str, stage: str) -> str | None:
    """Return the option with a key of this name, if one alone of a command's groups has it."""
    command = f"deme {stage}"
    mine = [group for group in groups() if command in _stages_with(group)]
    found = [option for group in mine for option in _options_with(group, name)]
    return found[0] if len(found) == 1 else None


def _options_with(group: str, name: str) -> list[str]:
    """Return the options of a group that have a key, as they are typed."""
    found = []
    for option in options(group) if group in groups() else ():
        text = (conf_dir() / group / f"{option}.yaml").read_text()
        if "@package _global_" not in text and re.search(rf"(?m)^{re.escape(name)}:", text):
            found.append(f"{group}={option}")
    return found


def _stages_with(group: str) -> list[str]:
    """Return the commands that have a group."""
    stages = sorted(conf_dir().glob("*.yaml"))
    return [f"deme {f.stem}" for f in stages if re.search(rf"(?m)^  - {group}:", f.read_text())]


def keys(stage: str, overrides: Sequence[str] = ()) -> list[str]:
    """Return the dotted keys of a stage's configuration, with the options that overrides choose."""
    chosen = [word for word in overrides if word.partition("=")[0] in groups()]
    for choices in (chosen, []):
        with contextlib.suppress(Exception):
            GlobalHydra.instance().clear()
            with initialize_config_dir(str(conf_dir()), version_base="1.3"):
                found = OmegaConf.to_container(compose(stage, choices), resolve=False)
                return list(flattened(found))
    return []


def flattened(node: object, prefix: str = "") -> dict[str, object]:
    """Return every value of a configuration, groups included, by its dotted key."""
    found: dict[str, object] = {}
    for name, value in node.items() if isinstance(node, dict) else ():
        found |= {f"{prefix}{name}": value, **flattened(value, f"{prefix}{name}.")}
    return found


@functools.cache
def groups() -> list[str]:
    """Return the names of all option groups."""
    return sorted(p.name for p in conf_dir().iterdir() if p.is_dir() and p.name != "local")


def options(group: str) -> list[str]:
    """Return the options of a group, those of a folder in it as <folder>/<name>."""
    folder = Path(conf_dir(), group)
    names = (p.relative_to(folder).with_suffix("").as_posix() for p in option_files(folder))
    return sorted(name for name in names if not name.startswith("_"))  # _base/: parts of others
