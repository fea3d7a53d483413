"""`deme convert`: a DDPM checkpoint of the original layout as a diffusers folder."""

from pathlib import Path
from typing import Any

from deme.commands.arguments import split_args
from deme.system import BadConfig, DemeError, MissingInput, files, locate, print_result

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
OPTIONS = ("out", "beta_schedule", "size", "ema")
USAGE = " <checkpoint> out=<folder> [beta_schedule=linear] [size=<pixels>] [ema=true]"


def run(words: list[str]) -> int:
    """Convert unless it is done; return the exit code."""
    source, options = _parse(words)
    out = Path(options["out"]).expanduser()
    about = {
        "range": None,
        "converted": {
            "from": "the original DDPM layout",
            "file": source.name,
            "sha256": files.sha256(source),
            "beta_schedule": options["beta_schedule"],
        },
    }
    if out.exists() and not _is_ours(out, about, options):
        raise BadConfig(
            f"{out} exists and is something else\ndelete it, or choose another place: out=<folder>"
        )
    if out.exists():
        print_result(f"{out} is {source.name}, converted before")
        return 0
    ema = _convert(source, out, about, options)
    kind = {
        True: "a moving average",
        False: "raw weights, no moving average",
        None: "raw or averaged: it does not say",
    }
    print_result(
        f"converted {source} ({kind[ema]}) to {out}\nuse it with: model=diffusers model.path={out}"
    )
    return 0


def _parse(words: list[str]) -> tuple[Path, dict[str, Any]]:
    places, options = split_args(words, OPTIONS)
    given = {"beta_schedule": "linear", **options}
    if len(places) != 1 or not given.get("out"):
        raise BadConfig(
            f"deme convert takes one checkpoint and a folder to write\ntype: deme convert{USAGE}"
        )
    if given["beta_schedule"] not in SCHEDULES:
        raise BadConfig(
            f"beta_schedule must be one of {', '.join(SCHEDULES)}, got {given['beta_schedule']!r}"
        )
    size, ema = given.get("size"), given.get("ema")
    if size is not None and not (size.isdigit() and int(size) > 0):
        raise BadConfig(f"size must be a positive whole number of pixels, got {size!r}")
    if ema not in (None, "true", "false"):
        raise BadConfig(f"ema must be true or false, got {ema!r}")
    source = locate(places[0])
    if not source.is_file():
        raise MissingInput(f"{source} is a folder; deme convert takes the file of a checkpoint")
    return source, {
        **given,
        "size": int(size) if size else None,
        "ema": None if ema is None else ema == "true",
    }


def _is_ours(out: Path, about: dict[str, Any], options: dict[str, Any]) -> bool:
    """Whether `out` is what this command would write."""
    if not (out / "deme.json").is_file():
        return False
    found = files.read_json(out / "deme.json")
    if found.get("converted") != about["converted"] or options["ema"] not in (
        None,
        found.get("ema"),
    ):
        return False
    return options["size"] in (None, files.read_json(out / "unet" / "config.json")["sample_size"])


def _convert(
    source: Path, out: Path, about: dict[str, Any], options: dict[str, Any]
) -> bool | None:
    """Write the folder; return whether its weights are a moving average."""
    from deme.models.checkpoint import StateDict, load_into, read_pickle
    from deme.models.original_ddpm import convert, pick
    from deme.models.unconditional import build_unconditional
    from deme.system.tensors import TensorFile

    checkpoint = (
        TensorFile(source).read_all() if source.suffix == ".safetensors" else read_pickle(source)
    )
    try:
        state, ema = pick(checkpoint, options["ema"])
        config, weights = convert(state, options["size"])
    except DemeError as error:
        raise type(error)(f"{source}: {error}") from error
    variance = (
        "fixed_large" if config["sample_size"] == 32 else "fixed_small"
    )  # as their authors sample CIFAR-10 and LSUN
    model = build_unconditional(
        config, {"beta_schedule": options["beta_schedule"], "variance_type": variance}
    )
    load_into(model.unet, StateDict(source, weights), "the network that its shapes are of")
    model.save(out, model.state_dict(), {**about, "ema": ema})
    return ema
