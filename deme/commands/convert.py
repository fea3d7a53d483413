"""`deme convert`: convert a single-file checkpoint to a diffusers folder.

That is a DDPM in the original layout, or Stable Diffusion (1.x, 2.x, XL) in a safetensors file.
"""

from pathlib import Path
from typing import Annotated, NoReturn

from pydantic.dataclasses import dataclass

from deme.commands import ARGUMENTS
from deme.commands.arguments import split_args
from deme.runs import STRICT, Name
from deme.runs.settings.base import key
from deme.runs.settings.sources import ConversionSettings
from deme.system import (
    BadConfig,
    DemeError,
    MissingInput,
    expanded,
    files,
    locate,
    locked,
    logger,
    print_result,
    read_about,
    read_json,
)

KINDS = {
    True: "a moving average",
    False: "raw weights, no moving average",
    None: "unknown whether raw or averaged",
}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ConvertSettings(ConversionSettings):
    """deme convert."""

    out: Annotated[Name, key("The folder to write.", "models/mine")]


def run(words: list[str]) -> None:
    """Convert unless it is done. Raises BadConfig, MissingInput, WorkFailed."""
    usage = f"deme convert {ARGUMENTS['convert']}"
    place, settings = split_args(words, ConvertSettings, "checkpoint", usage)
    source = locate(place)
    if not source.is_file():
        raise MissingInput(f"{source} is a folder; deme convert takes the file of a checkpoint")
    convert_checkpoint(source, expanded(settings.out), settings)


def convert_checkpoint(source: Path, out: Path, settings: ConversionSettings) -> None:
    """Convert a checkpoint unless that is already done. Raises BadConfig, WorkFailed."""
    is_pipeline = _is_pipeline(source)
    _check_settings(source, settings, is_pipeline)
    origin: dict[str, object] = {
        "from": "Stable Diffusion in one file" if is_pipeline else "the original DDPM layout",
        "file": source.name,
        "sha256": files.sha256(source),
        **({} if is_pipeline else {"beta_schedule": settings.beta_schedule}),
    }
    if not out.exists():
        lock = out.with_name(f".{out.name}.lock")
        with locked(lock, lambda owner: logger.info("%s writes %s", owner, out), remove=True):
            if not out.exists():
                convert = _convert_pipeline if is_pipeline else _convert
                kind = KINDS[convert(source, out, origin, settings)]
                print_result(
                    f"converted {source} ({kind}) to {out}\n"
                    f"use it with: model=diffusers model.path={out}"
                )
                return
    if not _is_ours(out, origin, settings):
        _refuse(out)
    print_result(f"{out} is {source.name}, converted before")


def _is_pipeline(source: Path) -> bool:
    from deme.models.single_file import is_single_file
    from deme.system.tensors import TensorFile

    if source.suffix != ".safetensors":
        return False
    names = TensorFile(source).specs
    if any("lora" in name.lower() for name in names):
        raise BadConfig(
            f"{source} is a LoRA, which needs no conversion\n"
            "type: deme merge model=diffusers model.path=<its base> "
            f"'inputs.experts=[{source},<another LoRA>]'"
        )
    return is_single_file(names)


def _check_settings(source: Path, settings: ConversionSettings, is_pipeline: bool) -> None:
    """Raise BadConfig for settings of the other kind of checkpoint."""
    others = ("beta_schedule", "size") if is_pipeline else ("config",)
    defaults = ConversionSettings()
    for name in others:
        if getattr(settings, name) != getattr(defaults, name):
            kind = f"a {'single-file' if is_pipeline else 'DDPM'} checkpoint"
            raise BadConfig(
                f"{source} is {kind}, and {name}= does not apply to it\n"
                f"type: the command without {name}="
            )


def _convert_pipeline(
    source: Path, out: Path, origin: dict[str, object], settings: ConversionSettings
) -> bool | None:
    """Write the pipeline's folder; return whether its weights are a moving average."""
    from deme.models.single_file import convert_single_file

    def fill(partial: Path) -> None:
        convert_single_file(source, settings.config, partial)
        about = {"range": None, "converted": origin, "ema": settings.ema}
        files.write_json(partial / "deme.json", about)

    files.write_folder(out, fill, lambda: _refuse(out))
    return settings.ema


def _refuse(out: Path) -> NoReturn:
    raise BadConfig(
        f"{out} exists and is not a conversion of this checkpoint\n"
        "delete it, or choose another place: out=<folder>"
    )


def _is_ours(out: Path, origin: dict[str, object], settings: ConversionSettings) -> bool:
    """Whether `out` is what this command would write."""
    about = read_about(out)
    if about.get("converted") != origin or settings.ema not in (None, about.get("ema")):
        return False
    return settings.size in (None, read_json(out / "unet" / "config.json").get("sample_size"))


def _convert(
    source: Path, out: Path, origin: dict[str, object], settings: ConversionSettings
) -> bool | None:
    """Write the folder; return whether its weights are a moving average."""
    from deme.models.checkpoint import StateDict, load_into, read_pickle
    from deme.models.families.unconditional import build_unconditional
    from deme.models.original_ddpm import convert, pick
    from deme.system.tensors import TensorFile

    checkpoint = (
        TensorFile(source).read_all() if source.suffix == ".safetensors" else read_pickle(source)
    )
    try:
        state, ema = pick(checkpoint, settings.ema)
        config, weights = convert(state, settings.size)
    except DemeError as error:
        raise type(error)(f"{source}: {error}") from error
    # as their authors sample CIFAR-10 and LSUN
    variance = "fixed_large" if config["sample_size"] == 32 else "fixed_small"
    model = build_unconditional(
        config, {"beta_schedule": settings.beta_schedule, "variance_type": variance}
    )
    load_into(model.network, StateDict(source, weights), "the network that its shapes are of")
    about = {"range": None, "converted": origin, "ema": ema}
    files.write_folder(
        out,
        lambda partial: model.write(partial, model.state_dict(), about),
        lambda: _refuse(out),  # it was not there when this began
    )
    return ema
