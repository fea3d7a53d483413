"""`deme completion <shell>`: complete commands, options, keys and values in bash, zsh and fish.

The shell calls `deme completion words '<the line typed so far>'`. This reads the files of conf/ as
text and looks for runs and folders; torch is not imported.
"""

import re
import shlex
from collections.abc import Iterator

from deme.cli.completion_values import (
    ANY,
    MEASURED,
    allowed_values,
    places,
    runs,
    stage_values,
    suites,
)
from deme.cli.flags import NAMES
from deme.cli.option_files import Key, default_choices, keys_of, option_files
from deme.cli.suite_commands import GROUP, NAMED
from deme.commands import ARGUMENTS, COMMANDS, STAGES
from deme.system import BadConfig, conf_dir

SHELLS = {
    "bash": r"""# add to ~/.bashrc: eval "$(deme completion bash)"
_deme() {
    local line="${COMP_LINE:0:COMP_POINT}" cur before word
    cur="${line##*[!\\] }"
    before="${cur%"${cur##*[=:]}"}"
    COMPREPLY=()
    while IFS= read -r word; do
        printf -v word %q "$word"
        COMPREPLY+=("${word#"$before"}")
    done < <(deme completion words "$line" 2>/dev/null)
    case "${COMPREPLY[0]}" in *=|*.|*/) compopt -o nospace 2>/dev/null;; esac
}
complete -o default -F _deme deme
""",
    "zsh": r"""# add to ~/.zshrc, after compinit: eval "$(deme completion zsh)"
_deme() {
    local -a found
    found=(${(f)"$(deme completion words "${BUFFER[1,CURSOR]}" 2>/dev/null)"})
    if (( $#found )); then compadd -Q -S '' -- ${(q)found}; else _files; fi
}
compdef _deme deme
""",
    "fish": r"""# add to ~/.config/fish/config.fish: deme completion fish | source
complete -c deme -a "(deme completion words (commandline -cp) 2>/dev/null)"
""",
}
TAKES_SUITE = {command for command, usage in ARGUMENTS.items() if re.search("<[^>]*suite", usage)}
TAKES_RUN = ("compare", "show", "report", "publish")
SWITCH = ("true", "false")


def run(args: list[str]) -> int:
    """Print the completion script of a shell, or the candidates for the last word of a line."""
    if args[:1] == ["words"]:
        print("".join(f"{word}\n" for word in candidates(args[1] if len(args) > 1 else "")), end="")
        return 0
    usage = (
        f"deme completion takes the name of a shell: {', '.join(SHELLS)}\n"
        'type, in bash: eval "$(deme completion bash)"'
    )
    if {"-h", "--help"} & {*args}:
        print(usage)
        return 0
    if len(args) != 1 or args[0] not in SHELLS:
        raise BadConfig(usage)
    print(SHELLS[args[0]], end="")
    return 0


def candidates(line: str) -> list[str]:
    """Return the candidates for the last word of a command line, typed in part or not at all."""
    words = _split(line)
    typed = words.pop() if words and not line.endswith((" ", "\t")) else ""
    if not words or (len(words) == 1 and words[0] != "deme"):
        return []
    command = words[1] if len(words) > 1 else ""
    if not command:
        found = [*STAGES, *COMMANDS, "completion"]
    elif command == "completion":
        found = [*SHELLS]
    elif command in STAGES:
        found = [*_stage_words(command, words[2:], typed)]
    else:
        found = [*_command_words(command, words[2:], typed)] if command in COMMANDS else []
    return sorted({word for word in found if word.startswith(typed)})


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quote that is still open
        return line.split()


def _stage_words(command: str, given: list[str], typed: str) -> Iterator[str]:
    """Yield flags, groups with their options, and keys of the command and of chosen options."""
    groups = default_choices(command)
    chosen = groups | {
        group: option for word in given for group, _, option in [word.partition("=")] if option
    }
    key, equals, value = typed.partition("=")
    known = _keys(command, {group: chosen[group] for group in groups})
    if equals:
        if key in groups:
            yield from (f"{key}={option}" for option in option_files(key))
        default, comment = next((each[1:] for each in known if each.path == key), ("", ""))
        words = (
            SWITCH
            if default in SWITCH
            else allowed_values(command, key, comment)
            if default
            else ()
        )
        places = stage_values(command, key, value, _root(given))
        yield from (f"{key}={each}" for each in (*words, *places))
        return
    if typed.startswith("-"):
        yield from (name.partition(" ")[0] for name in NAMES)
        return
    yield from (f"{group}=" for group in groups)
    yield from (f"{each.path}=" for each in known)


def _root(given: list[str]) -> str:
    """Return the folder of all runs that the command line names."""
    found = [word.partition("=") for word in given]
    return next((value for key, _, value in found if key in ("runs", "paths.runs")), "runs")


def _keys(command: str, chosen: dict[str, str]) -> Iterator[Key]:
    """Yield the keys of a command and of its options that have a value."""
    for key in keys_of(conf_dir() / f"{command}.yaml"):
        if key.default:
            yield key
    for group, option in chosen.items():
        file = option_files(group).get(option)
        if file is not None and group not in ("experiment", "debug"):
            found = (key for key in keys_of(file) if key.default and "_target_" not in key.path)
            yield from (key._replace(path=f"{group}.{key.path}") for key in found)


def _command_words(command: str, given: list[str], typed: str) -> Iterator[str]:
    """Yield the options that the usage of a command names, their values, suites and runs."""
    usage = ARGUMENTS.get(command, "")
    key, equals, value = typed.partition("=")
    is_group = GROUP.match(typed) is not None
    if (command == "publish" and (equals or is_group)) or (command == "reproduce" and is_group):
        yield from _stage_words(command, given, typed)
    if equals:
        values = (
            SWITCH if f"{key}=true" in usage else stage_values(command, key, value, _root(given))
        )
        yield from (f"{key}={each}" for each in values)
        return
    yield from (f"{name}=" for name in NAMED.findall(usage))
    yield "--help"
    root = _root(given)
    if command in TAKES_SUITE:
        yield from suites(typed, conf_dir().parent / "experiments", root)
    if command in TAKES_RUN:
        stages = MEASURED if command == "compare" else ANY
        before, comma, start = typed.rpartition(",")
        found = runs(start, root, stages, only_done=command != "show")
        yield from (f"{before}{comma}{run}" for run in found)
    if command == "convert":
        yield from places(typed, files=True)
