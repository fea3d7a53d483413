"""`deme <verb> ...`: find the verb, run it, and end with the exit code that its outcome stands for."""

import os
import re
import sys
import traceback
from typing import TYPE_CHECKING

from deme import __version__
from deme.system import signals
from deme.system.console import log_to_terminal
from deme.system.errors import BadConfig, DemeError, Stopped, did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

STAGES = {  # verbs configured by Hydra: conf/<verb>.yaml
    "train": "finetune (or pretrain) one model, or one expert per range of timesteps",
    "merge": "put experts back together in parameter space",
    "search": "look for merge weights",
    "improve": "a better checkpoint, or why not: deme improve model=<folder or hub:...> data=<folder> out=<folder>",
    "evaluate": "generate images from seeds and measure them",
    "sample": "draw a grid of images of one or several models: deme sample run=<dir> num_images=64",
    "export": "a stock diffusers folder with a model card: deme export run=<dir> out=<folder> [push=<owner>/<name>]",
    "stats": "statistics of real images that evaluations are compared to",
    "verify": "audit an evaluation: make 64 of its images and its numbers again: deme verify run=<dir>",
    "analyze": "draw a figure: deme analyze figure=weightings",
    "doctor": "versions, devices, self test; with model= and data= what they are: deme doctor model=<folder> data=<folder>",
}
COMMANDS = {  # verbs that take a suite (experiments/<table> or a .yaml file), two evaluations, or a checkpoint
    "plan": "what a table needs: what is done, missing or stale, its cost, its power",
    "reproduce": "run what is missing, then write the table",
    "table": "write the table of what is there",
    "compare": "two evaluations, paired: deme compare <run> <run>, or <run>,<run>,... for several seeds each",
    "convert": "a DDPM checkpoint of the original layout to a diffusers folder: deme convert <file> out=<folder>",
}
EXAMPLES = """examples:
  deme reproduce experiments/digits/demo.yaml
  deme train -m experiment=digits/deme             four experts, one job each
  deme merge experiment=digits/merge               then evaluate, then table
  deme train experiment=digits/finetune seed=1 optimizer.lr=1e-4
  deme train --cfg job experiment=digits/deme      show the configuration

Every verb in the upper half is ordinary Hydra: overrides, -m sweeps, --config-dir, --cfg job.
The same command resumes what was interrupted and skips what is done. debug=true shows tracebacks.
exit codes: 0 done, 1 bug, 2 bad config, 3 missing input, 4 the work failed, 74 disk, 75 stopped (run again), 130 Ctrl-C"""

# Hydra's own output folders and logs: a run directory describes itself already.
QUIET_HYDRA = [
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra.sweep.dir=${paths.runs}/.multirun",
    "hydra.sweep.subdir=.",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
]

PATH_OPTIONS = {
    "model": "diffusers",
    "data": "image_folder",
}  # the options that a place in place of an option's name stands for
OVERRIDE = re.compile(r"[+~]*[\w/@.]+=|~")
HYDRA_FLAGS = (
    "-m",
    "--multirun",
    "-c",
    "--cfg",
    "--resolve",
    "-p",
    "--package",
    "-i",
    "--info",
    "-cd",
    "--config-dir",
    "-cn",
    "--config-name",
    "-cp",
    "--config-path",
    "--hydra-help",
)


def usage() -> str:
    """Return the help page."""
    lines = [
        f"deme {__version__}: better diffusion models by decouple-then-merge finetuning",
        "",
        "usage: deme <verb> ...",
        "",
    ]
    lines += [f"  {verb:<10} {text}" for verb, text in STAGES.items()]
    lines += ["", *(f"  {verb:<10} {text}" for verb, text in COMMANDS.items())]
    return "\n".join([*lines, "", EXAMPLES])


def main(argv: list[str] | None = None) -> int:
    """Run `deme` with the given words (default: the command line's) and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "debug=true" in words
    words = [word for word in words if word not in ("debug=true", "debug=false")]
    log_to_terminal("INFO")
    try:
        with signals.handled():
            return _dispatch(words)
    except (DemeError, Stopped) as error:
        hidden = signals.received() if isinstance(error, BadConfig) else None
        return _failed(hidden or error, debug)
    except KeyboardInterrupt:
        print("deme: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        if (stop := signals.received()) is None:
            raise
        return _failed(stop, debug)


def _failed(error: DemeError | Stopped, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"deme: {error}", file=sys.stderr)
    return error.exit_code


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] in ("-V", "--version"):
        print(__version__)
        return 0
    verb, rest = words[0], words[1:]
    if verb in STAGES:
        if "-h" in rest or "--help" in rest:
            print(
                f"deme {verb}: {STAGES[verb]}\n\nOverrides are Hydra's: key=value, group=option, -m for sweeps. "
                f"Show all keys with: deme {verb} --cfg job"
            )
            return 0
        return _hydra(verb, rest)
    if verb in COMMANDS:
        from deme.cli import suite_commands

        return suite_commands.run(verb, rest)
    known = [*STAGES, *COMMANDS]
    raise BadConfig(
        f"unknown verb {verb!r}; {did_you_mean(verb, known)}allowed: {', '.join(known)}\ntype: deme --help"
    )


def expand_path_shortcut(word: str) -> list[str]:
    """Return model=<folder or hub:...> and data=<folder> as the options that they stand for; any other word as it is."""
    group, _, value = word.partition("=")
    from deme.system.paths import conf_dir

    option = PATH_OPTIONS.get(group)
    if option is not None and (conf_dir() / group / f"{value}.yaml").is_file():
        return [word]
    if option is None or not ("/" in value or ":" in value or os.path.isdir(value)):  # noqa: PTH112 (starts in no time)
        return [word]
    from pathlib import Path

    from deme.runs.inputs import is_run, weights_folder

    if group == "model" and is_run(Path(value)):
        value = str(weights_folder(Path(value)))
    if "," not in value and not value.startswith(
        ("'", '"')
    ):  # no sweep: whatever the path is called
        value = "'" + os.path.expanduser(value).replace("\\", "\\\\").replace("'", "\\'") + "'"  # noqa: PTH111
    return [f"{group}={option}", f"{group}.path={value}"]


def _hydra(verb: str, overrides: list[str]) -> int:
    """Hand the words to Hydra. A failing job of a sweep does not stop the others; the first failure decides the code."""
    import hydra

    from deme.commands import stage_function
    from deme.runs.config import config_errors, to_dict
    from deme.system.paths import conf_dir

    failures: list[DemeError] = []

    def job(cfg: "DictConfig") -> None:
        try:
            stage_function(verb)(to_dict(cfg))
        except DemeError as error:
            traceback.clear_frames(
                error.__traceback__
            )  # what a failed job holds, the next one needs
            failures.append(error)

    settings = [
        part for word in overrides if OVERRIDE.match(word) for part in expand_path_shortcut(word)
    ]
    flags = [
        word for word in overrides if not OVERRIDE.match(word)
    ]  # Hydra's parser wants its flags together
    for flag in (word.split("=")[0] for word in flags if word.startswith("-")):
        if flag not in HYDRA_FLAGS:
            raise BadConfig(
                f"unknown flag {flag}; {did_you_mean(flag, HYDRA_FLAGS)}allowed: {', '.join(HYDRA_FLAGS)}"
            )
    argv, sys.argv = sys.argv, ["deme", *flags, *QUIET_HYDRA, *settings]
    full_error, os.environ["HYDRA_FULL_ERROR"] = os.environ.get("HYDRA_FULL_ERROR"), "1"
    try:
        with config_errors(verb):
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=verb)(job)()
    except SystemExit as error:
        if error.code not in (0, None):
            raise BadConfig(
                f"bad options: {' '.join(overrides)}\ntype: deme {verb} --help"
            ) from error
    finally:
        sys.argv = argv
        if full_error is None:
            os.environ.pop("HYDRA_FULL_ERROR")
    for other in failures[1:]:
        print(f"deme: {other}", file=sys.stderr)
    if failures:
        raise failures[0]
    return 0
