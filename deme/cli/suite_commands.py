"""The verbs that take a suite, two evaluations or a checkpoint: words of the command line to calls."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path

from deme.system.errors import BadConfig, did_you_mean

SUITE_OPTIONS = {"runs": "runs", "jobs": "1", "minutes": "0", "tflops": "0"}


def run(verb: str, words: list[str]) -> int:
    """Run plan, reproduce, table, compare or convert and return the exit code."""
    if "-h" in words or "--help" in words:
        from deme.cli.app import COMMANDS
        from deme.commands.convert import USAGE

        takes = {"compare": " <run>[,<run>...] <run>[,<run>...]", "convert": USAGE}.get(
            verb,
            " <experiments/table or suite.yaml> [runs=<dir>] [jobs=<n>] [minutes=<n>] [tflops=<n>] [paths.<key>=<dir>]",
        )
        print(f"usage: deme {verb}{takes}\n\n{COMMANDS[verb]}")
        return 0
    if verb == "convert":
        from deme.commands import convert

        return convert.run(words)
    if verb == "compare":
        from deme.commands import compare

        if len(words) != 2:
            raise BadConfig(
                f"deme compare takes two evaluations, got {len(words)}\n"
                "type: deme compare <run> <run>, or <run>,<run>,... twice for several seeds each"
            )
        return compare.run(*(word.split(",") for word in words))
    words = [
        word.removeprefix("paths.") if word.startswith("paths.runs=") else word for word in words
    ]
    overrides = [word for word in words if word.startswith("paths.")]
    places, given = split_words([word for word in words if word not in overrides], SUITE_OPTIONS)
    options = {**SUITE_OPTIONS, **given}
    if len(places) != 1:
        raise BadConfig(
            f"deme {verb} takes one suite, got {len(places)}\ntype: deme {verb} experiments/digits"
        )
    if not options["jobs"].isdigit() or int(options["jobs"]) < 1:
        raise BadConfig(f"jobs must be a positive whole number, got {options['jobs']!r}")

    minutes, tflops = (_positive(name, options[name]) for name in ("minutes", "tflops"))

    from deme.commands import plan, reproduce, table
    from deme.runs.suite import Suite

    suite = Suite.read(Path(places[0]), Path(options["runs"]), overrides)
    if verb == "plan":
        return plan.run(suite, int(options["jobs"]), tflops)
    if verb == "table":
        return table.run(suite)
    return reproduce.run(suite, int(options["jobs"]), minutes)


def split_words(words: Sequence[str], allowed: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """Return the words that are no key=value, and the others as a dict. Raises BadConfig for a key that is not allowed."""
    given = dict(word.split("=", 1) for word in words if "=" in word)
    for key in (key for key in given if key not in allowed):
        names = ", ".join(f"{name}=" for name in allowed)
        raise BadConfig(f"unknown option {key!r}; {did_you_mean(key, allowed)}allowed: {names}")
    return [word for word in words if "=" not in word], given


def _positive(name: str, text: str) -> float | None:
    """Return a number, or None for an option that is not given."""
    try:
        value = float(text) if math.isfinite(float(text)) else -1
    except ValueError:
        value = -1
    if value < 0:
        raise BadConfig(f"{name} must be a positive number, got {text!r}")
    return value or None
