"""The flags of Hydra that commands accept, checked before Hydra parses them."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deme.system import BadConfig, did_you_mean, exists, expanded

FLAGS = {  # flags of the help pages and their descriptions
    "-m": "a sweep: every combination of values that are separated by commas",
    "--cfg job": "print the configuration of one job, and do nothing",
    "--info defaults": "which option files it is made from; also plugins, config, searchpath",
    "--config-dir <folder>": "your own option files; they can name modules in its parent folder",
    "--help-all": "this page with the keys of all options",
}
NAMES = ("--help", "--quiet", *FLAGS)
LONG = {  # of Hydra's flags
    "-m": "--multirun", "-c": "--cfg", "-p": "--package", "-i": "--info", "-cd": "--config-dir",
    "-cn": "--config-name", "-cp": "--config-path",
}  # fmt: skip
HYDRA_FLAGS = (*LONG, *LONG.values(), "--resolve", "--hydra-help")
SHOWN = {  # the allowed values of flags that show one job
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
COMPLETION = ("-sc", "--shell-completion", "--shell_completion")


def check_flags(command: str, flags: Sequence[str]) -> None:
    """Raise BadConfig for flags that Hydra would not understand, with the correct command to type.

    Afterwards, modules in a --config-dir and in its parent folder can be imported.
    """
    names = [flag.split("=")[0] for flag in flags if flag.startswith("-")]
    if {*names} & {*COMPLETION}:
        raise BadConfig(
            "use the completion of deme itself\n"
            'type: eval "$(deme completion bash)"; there are zsh and fish, too'
        )
    for flag in names:
        if flag not in HYDRA_FLAGS:
            near = did_you_mean(flag, [*NAMES, *HYDRA_FLAGS])
            text = f"unknown flag {flag}; {near}allowed: {', '.join(NAMES)}"
            with_value = next((word for word in flags if word.startswith(f"{flag}=")), None)
            raise BadConfig(text if with_value is None else f"{text}\ntype: {with_value[2:]}")
    values = _values(flags)
    for flag in (flag for flag in SHOWN if flag in values):
        _check_shown(command, flag, values[flag], "--multirun" in values)
    if (folder := values.get("--config-dir")) is not None:
        _add_folder(folder)


def _values(flags: Sequence[str]) -> dict[str, str]:
    """Return the value after each flag by the flag's long name, "" for a flag without a value."""
    found: dict[str, str] = {}
    for word, after in zip(flags, [*flags[1:], ""], strict=False):
        if word.startswith("-"):
            flag, equals, value = word.partition("=")
            following = "" if after.startswith("-") else after
            found[LONG.get(flag, flag)] = value if equals else following
    return found


def _check_shown(command: str, flag: str, what: str, is_sweep: bool) -> None:
    """Raise BadConfig for a flag such as --cfg without a valid value, or together with a sweep."""
    allowed = SHOWN[flag]
    if what not in allowed:
        raise BadConfig(
            f"{flag} needs one of: {', '.join(allowed)}\n"
            f"type: deme {command} {flag} {allowed[0]} ..."
        )
    if is_sweep:
        raise BadConfig(
            f"{flag} shows one job, and -m starts several\n"
            f"type: deme {command} {flag} {what} ... without -m, one value for each key"
        )


def _add_folder(name: str) -> None:
    """Let Python import modules in a configuration folder and in its parent.

    Helper processes can import them too. Which classes may be imported is decided by
    trust=<package>. Raises BadConfig.
    """
    folder = expanded(name).absolute()
    if not folder.is_dir():
        inside = folder.parent.iterdir() if exists(folder.parent) else ()
        near = did_you_mean(folder.name, [each.name for each in inside if each.is_dir()])
        text = f"--config-dir={name} is not a folder (looked in {Path.cwd()}); {near}"
        raise BadConfig(text.rstrip("; "))
    places = [str(folder.parent), str(folder)]
    sys.path += [place for place in places if place not in sys.path]
    known = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    added = [place for place in places if place not in known]
    os.environ["PYTHONPATH"] = os.pathsep.join([*known, *added])
