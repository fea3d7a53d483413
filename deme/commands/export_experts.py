"""`deme export` of several experts: unmerged, in a layout that stock diffusers can use."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from deme.runs import ExportSettings
from deme.system import (
    PACKAGE,
    BadConfig,
    MissingInput,
    files,
    first_lines,
    read_about,
)

WAN = "WanTransformer3DModel"  # whose pipeline takes two networks
SCRIPT = PACKAGE / "assets" / "route_loras.py"


def check_experts(settings: ExportSettings, folders: Sequence[Path]) -> None:
    """Raise BadConfig for experts that no pipeline of diffusers can use unmerged."""
    from deme.builders.checkpoints import open_checkpoint
    from deme.models.adapter_files import is_adapter

    for key, default in (("format", "diffusers"), ("keep_projections", False)):
        if getattr(settings, key) != default:
            raise BadConfig(
                f"{key}={getattr(settings, key)} is allowed only for exporting one model, and run= "
                f"names {len(folders)}\ntype: {key}={str(default).lower()}"
            )
    if all(map(is_adapter, folders)):
        if settings.boundary_ratio is not None:
            raise BadConfig(
                f"boundary_ratio={settings.boundary_ratio} is for two networks of Wan; these are "
                "LoRAs, whose deme.json states their ranges\ntype: boundary_ratio=null"
            )
        return
    if mixed := [folder for folder in folders if is_adapter(folder)]:
        raise BadConfig(
            f"{mixed[0]} is a LoRA, and other models in run= are not; allowed: LoRAs alone, or two "
            "networks of Wan\ntype: run='[<LoRA>,<LoRA>,...]'"
        )
    kinds = {str(open_checkpoint(folder).config.get("_class_name")) for folder in folders}
    if kinds != {WAN}:
        raise BadConfig(
            "whole models can be exported unmerged only as the two networks of Wan's pipeline; "
            f"these are {', '.join(sorted(kinds))}\n"
            "type: deme merge 'inputs.experts=[...]' for one model, or train the experts with "
            "adapter=lora"
        )
    if len(folders) != 2:
        raise BadConfig(
            f"Wan's pipeline has two networks, and run= names {len(folders)}\n"
            "type: run='[<low noise>,<high noise>]' boundary_ratio=<number between 0 and 1>"
        )


def experts_writer(settings: ExportSettings, folders: Sequence[Path]) -> Callable[[Path], None]:
    """Return what writes LoRAs with their ranges, or two networks of Wan, into a folder.

    Raises BadConfig, MissingInput.
    """
    from deme.models.adapter_files import is_adapter

    return _loras(settings, folders) if is_adapter(folders[0]) else _wan(settings, folders)


def _loras(settings: ExportSettings, folders: Sequence[Path]) -> Callable[[Path], None]:
    """Return what writes LoRAs, and a script that uses each at its timesteps. Raises BadConfig."""
    import torch

    from deme.builders.teachers import routed_experts
    from deme.models.adapter_files import WEIGHTS
    from deme.models.layout import read_json_object, scheduler_file
    from deme.models.noise import schedule_of
    from deme.report.model_card import experts_card, has_lora_loader, public_base
    from deme.system import tensors

    experts, ranges = routed_experts(folders)
    configs = experts[0].configs  # the base's
    index = read_json_object(configs / "model_index.json")
    pipeline = str(index.get("_class_name", "pipeline"))
    if not has_lora_loader(pipeline):
        raise BadConfig(
            f"diffusers' {pipeline} has no LoRA loader, so it cannot use experts unmerged\n"
            "type: deme merge 'inputs.experts=[...]' lora.form=fuse"
        )
    base = str(read_about(experts[0].folder).get("base_model"))
    schedule, _ = schedule_of(read_json_object(scheduler_file(configs)))
    thresholds = schedule.timestep_input(torch.tensor([float(item.low) for item in ranges]))
    dtype: torch.dtype = getattr(torch, settings.dtype)
    rows = [
        {
            "name": f"expert_{i}",
            "file": f"expert_{i}.safetensors",
            "from_timestep": float(threshold) if i else 0.0,  # of a scheduler's
            "trained_in": [item.low, item.high],
        }
        for i, (item, threshold) in enumerate(zip(ranges, thresholds, strict=True))
    ]
    ranges_json = {
        "base_model": public_base(base),
        "num_timesteps": ranges[-1].high,
        "experts": rows,
    }
    card = experts_card("loras_card.md.jinja", settings, base, pipeline=pipeline, rows=rows)

    def fill(folder: Path) -> None:
        for expert, row in zip(experts, rows, strict=True):
            state = tensors.TensorFile(expert.folder / WEIGHTS).read_all()
            kept = {name: value.to(dtype) for name, value in state.items()}
            tensors.save(folder / str(row["file"]), kept)
        files.write_json(folder / "ranges.json", ranges_json)
        shutil.copyfile(SCRIPT, folder / SCRIPT.name)
        files.write_text(folder / "README.md", card)

    return fill


def _wan(settings: ExportSettings, folders: Sequence[Path]) -> Callable[[Path], None]:
    """Return what writes Wan's pipeline with two networks. Raises BadConfig, MissingInput."""
    from deme.builders.checkpoints import existing_network_folder, open_checkpoint
    from deme.merging.plan import differences
    from deme.models.frozen import copy_part
    from deme.models.layout import is_part, read_json_object
    from deme.report.model_card import experts_card

    if settings.dtype != "float32":
        raise BadConfig(
            f"dtype={settings.dtype} cannot be used here: networks of Wan keep the precision of "
            "their files\ntype: the command without dtype="
        )
    if settings.boundary_ratio is None:
        raise BadConfig(
            "boundary_ratio=null: the timesteps of the two networks are unknown\n"
            "type: boundary_ratio=<number between 0 and 1>, such as 0.875; at timesteps of at "
            "least this share of all, the second model (high noise) is used"
        )
    low, high = (open_checkpoint(folder) for folder in folders)
    if problems := list(differences(low, high)):
        raise BadConfig("these models do not fit together:\n" + first_lines(problems))
    pipelines = [folder for folder in folders if (folder / "model_index.json").is_file()]
    if not pipelines:
        raise MissingInput(
            "neither of the two models is a whole pipeline with VAE and text encoder\n"
            f"put model_index.json and the other parts of Wan's pipeline into {folders[1]}"
        )
    index = read_json_object(pipelines[0] / "model_index.json")
    others = [
        part
        for part, value in index.items()
        if is_part(value) and value[0] is not None and not part.startswith("transformer")
    ]
    index |= {
        "transformer": ["diffusers", WAN],
        "transformer_2": ["diffusers", WAN],
        "boundary_ratio": settings.boundary_ratio,
    }
    pipeline = str(index.get("_class_name", "WanPipeline"))
    card = experts_card("wan_card.md.jinja", settings, None, pipeline=pipeline)

    def fill(folder: Path) -> None:
        for part in others:
            copy_part(pipelines[0] / part, folder / part, links=False)
        for part, source in (("transformer", folders[1]), ("transformer_2", folders[0])):
            copy_part(existing_network_folder(source), folder / part, links=False)
        files.write_json(folder / "model_index.json", index)
        files.write_text(folder / "README.md", card)

    return fill
