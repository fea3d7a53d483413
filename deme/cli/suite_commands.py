"""The commands that take a suite, two evaluations or a checkpoint: arguments to calls."""

from pathlib import Path

from deme.commands import summary
from deme.commands.arguments import positive_number, split_args
from deme.system import BadConfig

SUITE_OPTIONS = {"runs": "runs", "jobs": "1", "minutes": "0", "tflops": "0", "all": "false"}
ARGUMENTS = {
    "plan": "<suite> [all=true] [jobs=<n>] [tflops=<n>] [runs=<dir>] [paths.<key>=<dir>]",
    "reproduce": "<suite> [jobs=<n>] [minutes=<n>] [runs=<dir>] [paths.<key>=<dir>]",
    "table": "<suite> [runs=<dir>] [paths.<key>=<dir>]",
    "compare": "<run>[,<run>...] <run>[,<run>...]",
    "convert": "<checkpoint> out=<folder> [beta_schedule=linear] [size=<pixels>] [ema=true]",
}


def usage(verb: str) -> str:
    """Return the help of one command."""
    note = "\na suite: experiments/<table> or a .yaml file (docs/suites.md)" * (
        "<suite>" in ARGUMENTS[verb]
    )
    return f"usage: deme {verb} {ARGUMENTS[verb]}\n\n{summary(verb)}{note}"


def run(verb: str, args: list[str]) -> int:
    """Run plan, reproduce, table, compare or convert and return the exit code."""
    if "-h" in args or "--help" in args:
        print(usage(verb))
        return 0
    if verb == "convert":
        from deme.commands import convert

        return convert.run(args)
    if verb == "compare":
        from deme.commands import compare

        if len(args) != 2:
            raise BadConfig(
                f"deme compare takes two evaluations, got {len(args)}\n"
                "type: deme compare <run> <run>, or <run>,<run>,... twice for several seeds each"
            )
        return compare.run(*(arg.split(",") for arg in args))
    args = [arg.removeprefix("paths.") if arg.startswith("paths.runs=") else arg for arg in args]
    paths = [arg for arg in args if arg.startswith("paths.")]
    places, given = split_args([arg for arg in args if arg not in paths], SUITE_OPTIONS)
    options = {**SUITE_OPTIONS, **given}
    if len(places) != 1:
        raise BadConfig(
            f"deme {verb} takes one suite, got {len(places)}\ntype: deme {verb} experiments/digits"
        )
    if not options["jobs"].isdigit() or int(options["jobs"]) < 1:
        raise BadConfig(f"jobs must be a positive whole number, got {options['jobs']!r}")
    if options["all"] not in ("true", "false"):
        raise BadConfig(f"all must be true or false, got {options['all']!r}")
    minutes, tflops = (positive_number(name, options[name]) for name in ("minutes", "tflops"))

    from deme.runs import Suite

    suite, jobs = Suite.read(Path(places[0]), Path(options["runs"]), paths), int(options["jobs"])
    if verb == "plan":
        from deme.commands import plan

        return plan.run(suite, jobs, tflops, options["all"] == "true")
    if verb == "table":
        from deme.commands import table

        return table.run(suite)
    from deme.commands import reproduce

    return reproduce.run(suite, jobs, minutes)
