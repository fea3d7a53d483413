"""The help pages, made from conf/, the settings and the commands' docstrings. No torch here."""

import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from deme import __version__
from deme.cli.examples import EXAMPLES
from deme.cli.flags import FLAGS
from deme.cli.option_files import (
    default_choices,
    first_sentence,
    header,
    keys_of,
    option_files,
    purpose,
)
from deme.commands import COMMANDS, STAGES, summary
from deme.system import conf_dir

NARROW, WIDE = 80, 100  # columns of a page
TOPICS = {  # headings and their commands, in the order of the page
    "models": ("train", "merge", "search", "average", "improve"),
    "measurements": ("evaluate", "compare", "sample", "analyze", "verify"),
    "tables": (
        "new-suite",
        "prepare",
        "plan",
        "reproduce",
        "table",
        "report",
        "publish",
        "dashboard",
    ),
    "runs": ("ls", "show", "clean"),
    "files": ("export", "convert", "stats", "doctor"),
}
FIRST_STEPS = (
    ("deme reproduce experiments/digits/demo.yaml", "a small table, in a few minutes"),
    ("deme train -m experiment=digits/deme", "four experts, as four jobs"),
    ("deme improve model=<folder> data=<folder> out=<folder>", "improve your own model"),
)
NOTES = """Commands with * are configured by Hydra: <key>=<value>, <group>=<option>, -m for
sweeps, --cfg job. Run the same command to resume; runs that are done are skipped.
--quiet shows only warnings, verbose=true details, debug=true the traceback of an error.
trust=<package> allows a configuration to use classes of your package.
deme completion bash (or zsh, fish) prints a script for completion in the shell.
exit codes: 0 done, 1 bug, 2 bad configuration, 3 missing input, 4 the work failed,
74 disk, 75 stopped (run the same command to resume), 130 Ctrl-C"""


def overview() -> str:
    """Return the page of `deme --help`."""
    head = f"deme {__version__}: better diffusion models by decouple-then-merge finetuning"
    lines = [
        head,
        "",
        "usage: deme <command> ...      more about a command: deme <command> --help",
        "",
    ]
    listed = {command for commands in TOPICS.values() for command in commands}
    rest = [command for command in (*STAGES, *COMMANDS) if command not in listed]
    for topic, commands in {**TOPICS, "more": rest}.items():
        known = [command for command in commands if command in (*STAGES, *COMMANDS)]
        if known:
            lines.append(topic)
        for command in known:
            mark = "*" if command in STAGES else " "
            lines.append(f"  {command:<11}{mark} {shortened_line(summary(command), _width() - 14)}")
    lines += ["", "first steps", *_examples(FIRST_STEPS), "", NOTES]
    return "\n".join(lines)


def stage_page(command: str, everything: bool = False) -> str:
    """Return the help page of a command that Hydra configures.

    `everything`: also list the keys of all options.
    """
    from deme.cli.types_in_words import GROUPS
    from deme.runs.settings import SETTINGS

    width = _width()
    lines = [
        *textwrap.wrap(f"deme {command}: {purpose(command)}", width),
        "",
        f"usage: deme {command} [<group>=<option> ...] [<key>=<value> ...] [-m]",
        "",
        "examples",
        *_examples(EXAMPLES.get(command, [])),
        "",
        "keys, with their defaults",
        *_keys(conf_dir() / f"{command}.yaml", SETTINGS[command]),
        "",
        "groups and their options; * is the default",
    ]
    for group, default in default_choices(command).items():
        files = option_files(group)
        if group == "experiment":
            lines += _experiments(command, list(files))
            continue
        lines.append(f"  {group}=")
        for name, file in files.items():
            mark = "*" if name == default else " "
            text = first_sentence(header(file))
            lines.append(f"  {mark} {name:<24}  {shortened_line(text, width - 30)}".rstrip())
            if everything:
                lines += [f"    {line}" for line in _keys(file, GROUPS.get(group), f"{group}.")]
    lines += ["", "flags", *_pairs(FLAGS)]
    return "\n".join(lines)


def command_page(command: str, usage: str, options: Any = None) -> str:
    """Return the help page of another command; `options`: the dataclass of its options."""
    lines = textwrap.wrap(
        f"usage: deme {command} {usage}", _width(), subsequent_indent="  ", break_on_hyphens=False
    )
    lines += ["", *textwrap.wrap(_sentence(summary(command)), _width())]
    if "<suite>" in usage:
        lines.append(
            "A suite is a folder such as experiments/<table> or a .yaml file (docs/suites.md)."
        )
    lines += ["", "examples", *_examples(EXAMPLES.get(command, []))]
    if options is not None:
        lines += ["", "options, with their defaults", *_options(options, usage)]
    return "\n".join(lines)


def _options(options: Any, usage: str) -> Iterator[str]:
    """Yield the options of a dataclass that appear in the usage line."""
    from deme.cli.types_in_words import described

    for field in fields(options):
        name = options.__pydantic_fields__[field.name].alias or field.name  # as it is typed
        if f"{name}=" in usage:
            kind, meaning, _ = described(options, field.name)
            default = "" if field.default in (None, MISSING) else _plain(field.default)
            kind = kind.replace("`", "")
            yield from _entry(f"{name}={default}", meaning.rstrip("."), kind)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _keys(file: Any, kind: Any, prefix: str = "") -> Iterator[str]:
    """Yield the keys of an option file with default, meaning and type."""
    from deme.cli.types_in_words import type_at

    for path, default, meaning in keys_of(file):
        if path.endswith("_target_"):
            continue
        known = type_at(kind, path)[0] if kind else ""
        known = "" if known in ("group", "any", "option") else known.replace("`", "")
        given = f"={default}" if default and default != "???" else "="
        needed = default == "???"
        text = "; ".join(part for part in (meaning, "must be given" if needed else "") if part)
        is_group = not default and known in ("", "mapping")
        known = "" if is_group else known
        yield from _entry(f"{prefix}{path}{'' if is_group else given}", text, known)


def _entry(left: str, text: str, kind: str = "") -> list[str]:
    """Return a key and its description in two columns."""
    room = 30
    said = f"{text} ({kind})" if text and kind else text or kind
    wrapped = textwrap.wrap(said, _width() - room - 2) or [""]
    if len(left) > room - 2:
        return [f"  {left}", *(f"  {'':<{room}}{line}" for line in wrapped if line)]
    first, *rest = wrapped
    return [f"  {left:<{room}}{first}".rstrip(), *(f"  {'':<{room}}{line}" for line in rest)]


def _experiments(command: str, names: Sequence[str]) -> Iterator[str]:
    """Yield the experiments of a command: those named after it; for train, all others."""
    own = {name for name in names if name.rpartition("/")[2] == command}
    others = {name for name in names if name.rpartition("/")[2] not in STAGES}
    found = sorted(others if command == "train" else own)
    yield "  experiment=    settings of one kind of run; settings that you type replace them"
    yield from textwrap.wrap(
        ", ".join(found) or "(none)", _width(), initial_indent="    ", subsequent_indent="    ",
        break_on_hyphens=False,
    )  # fmt: skip


def _examples(examples: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield example commands with explanations, on one line each or, if too long, on two."""
    for command, what in examples:
        line = f"  {command}"
        if not what:
            yield line
        elif len(line) + len(what) + 4 <= _width():
            yield f"{line}  # {what}"
        else:
            yield from (f"  # {what}", line)


def _pairs(texts: Mapping[str, str]) -> Iterator[str]:
    for left, text in texts.items():
        yield from _entry(left, text)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def shortened_line(text: str, longest: int) -> str:
    """Return a text as one line of at most `longest` characters, cut between words."""
    return textwrap.shorten(text, longest, placeholder=" ...") if text else ""


def _width() -> int:
    """Return the width of a page: that of the terminal, between 80 and 100 columns."""
    return min(WIDE, max(NARROW, shutil.get_terminal_size((WIDE, 24)).columns))
