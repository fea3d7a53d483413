"""`deme completion <shell>`: completion of verbs, options, keys and values in bash, zsh and fish.

The shell asks `deme completion words '<what is typed so far>'`, which reads the files of conf/ as
text: neither Hydra nor torch is imported.
"""

import shlex
from collections.abc import Iterator

from deme.cli.option_files import default_choices, keys_of, option_files
from deme.cli.suite_commands import ARGUMENTS, NAMED
from deme.commands import COMMANDS, STAGES
from deme.system import BadConfig, conf_dir

SHELLS = {
    "bash": r"""# add to ~/.bashrc: eval "$(deme completion bash)"
_deme() {
    local line="${COMP_LINE:0:COMP_POINT}" cur before
    cur="${line##* }"
    COMPREPLY=($(compgen -W "$(deme completion words "$line" 2>/dev/null)" -- "$cur"))
    before="${cur%"${cur##*[=:]}"}"
    if [ -n "$before" ]; then COMPREPLY=("${COMPREPLY[@]#"$before"}"); fi
    case "${COMPREPLY[0]}" in *=|*.) compopt -o nospace 2>/dev/null;; esac
}
complete -o default -F _deme deme
""",
    "zsh": r"""# add to ~/.zshrc, after compinit: eval "$(deme completion zsh)"
_deme() {
    local -a found
    found=(${(f)"$(deme completion words "${BUFFER[1,CURSOR]}" 2>/dev/null)"})
    if (( $#found )); then compadd -Q -S '' -- $found; else _files; fi
}
compdef _deme deme
""",
    "fish": r"""# add to ~/.config/fish/config.fish: deme completion fish | source
complete -c deme -a "(deme completion words (commandline -cp) 2>/dev/null)"
""",
}
FLAGS = ("--help", "--help-all", "--quiet", "-m", "--cfg", "--info", "--config-dir")
SWITCH = ("true", "false")


def run(args: list[str]) -> int:
    """Print a script for a shell, or the words that may come next."""
    if args[:1] == ["words"]:
        print("\n".join(candidates(args[1] if len(args) > 1 else "")))
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
    """Return what the last word of a command line may be, by what is typed of it."""
    words = _split(line)
    typed = words.pop() if words and not line.endswith((" ", "\t")) else ""
    if not words or (len(words) == 1 and words[0] != "deme"):
        return []
    verb = words[1] if len(words) > 1 else ""
    if not verb:
        found = [*STAGES, *COMMANDS, "completion"]
    elif verb == "completion":
        found = [*SHELLS]
    elif verb in STAGES:
        found = [*_stage_words(verb, words[2:], typed)]
    else:
        found = [*_command_words(verb)] if verb in COMMANDS else []
    return sorted({word for word in found if word.startswith(typed)})


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quote that is still open
        return line.split()


def _stage_words(verb: str, given: list[str], typed: str) -> Iterator[str]:
    """Yield flags, groups with their options, and keys of the command and of chosen options."""
    chosen = default_choices(verb)
    chosen |= {
        group: option for word in given for group, _, option in [word.partition("=")] if option
    }
    groups = default_choices(verb)
    key, equals, _ = typed.partition("=")
    if equals:
        if key in groups:
            yield from (f"{key}={option}" for option in option_files(key))
        defaults = dict(_keys(verb, {group: chosen[group] for group in groups}))
        if defaults.get(key) in SWITCH:
            yield from (f"{key}={value}" for value in SWITCH)
        return
    if typed.startswith("-"):
        yield from FLAGS
        return
    yield from (f"{group}=" for group in groups)
    yield from (f"{path}=" for path, _ in _keys(verb, {group: chosen[group] for group in groups}))


def _keys(verb: str, chosen: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the keys of a command and of its options, with their defaults."""
    for path, default, _ in keys_of(conf_dir() / f"{verb}.yaml"):
        if default:
            yield path, default
    for group, option in chosen.items():
        file = option_files(group).get(option)
        if file is not None and group not in ("experiment", "debug"):
            found = (key for key in keys_of(file) if key.default and "_target_" not in key.path)
            yield from ((f"{group}.{key.path}", key.default) for key in found)


def _command_words(verb: str) -> Iterator[str]:
    """Yield the options that the usage of a command names, and suites that are shipped."""
    yield from (f"{name}=" for name in NAMED.findall(ARGUMENTS.get(verb, "")))
    yield from ("--help",)
    if "suite" in ARGUMENTS.get(verb, ""):
        folder = conf_dir().parent / "experiments"
        yield from (f"experiments/{file.parent.name}" for file in folder.glob("*/suite.yaml"))
