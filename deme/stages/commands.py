"""The verbs that take a suite, two evaluations or a checkpoint: words of the command line to calls."""

import math
from pathlib import Path

from deme.errors import BadConfig, did_you_mean


def run(verb: str, words: list[str]) -> int:
    """Run plan, reproduce, table, compare or convert and return the exit code."""
    if "-h" in words or "--help" in words:
        from deme.cli import COMMANDS
        from deme.stages.convert import USAGE

        takes = {"compare": " <run>[,<run>...] <run>[,<run>...]", "convert": USAGE}.get(
            verb,
            " <experiments/table or suite.yaml> [runs=<dir>] [jobs=<n>] [minutes=<n>] [tflops=<n>] [paths.<key>=<dir>]",
        )
        print(f"usage: deme {verb}{takes}\n\n{COMMANDS[verb]}")
        return 0
    if verb == "convert":
        from deme.stages import convert

        return convert.run(words)
    if verb == "compare":
        from deme.stages import compare

        if len(words) != 2:
            raise BadConfig(
                f"deme compare takes two evaluations, got {len(words)}\n"
                "type: deme compare <run> <run>, or <run>,<run>,... twice for several seeds each"
            )
        return compare.run(*(word.split(",") for word in words))
    options = {"runs": "runs", "jobs": "1", "minutes": "0", "tflops": "0"}
    places, overrides = [], []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            places.append(word)
        elif key in options:
            options[key] = value
        elif key == "paths.runs":
            options["runs"] = value
        elif key.startswith("paths."):
            overrides.append(word)
        else:
            raise BadConfig(
                f"unknown option {key!r}; {did_you_mean(key, options)}allowed: {', '.join(f'{k}=' for k in options)}"
            )
    if len(places) != 1:
        raise BadConfig(f"deme {verb} takes one suite, got {len(places)}\ntype: deme {verb} experiments/digits")
    if not options["jobs"].isdigit() or int(options["jobs"]) < 1:
        raise BadConfig(f"jobs must be a positive whole number, got {options['jobs']!r}")

    minutes, tflops = (_positive(name, options[name]) for name in ("minutes", "tflops"))

    from deme.stages import plan, reproduce, table
    from deme.suites import Suite

    suite = Suite.read(Path(places[0]), Path(options["runs"]), overrides)
    if verb == "plan":
        return plan.run(suite, int(options["jobs"]), tflops)
    if verb == "table":
        return table.run(suite)
    return reproduce.run(suite, int(options["jobs"]), minutes)


def _positive(name: str, text: str) -> float | None:
    """Return a number, or None for an option that is not given."""
    try:
        value = float(text) if math.isfinite(float(text)) else -1
    except ValueError:
        value = -1
    if value < 0:
        raise BadConfig(f"{name} must be a positive number, got {text!r}")
    return value or None
