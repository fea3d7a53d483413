"""`deme export` of several experts: unmerged, in a layout that stock diffusers can use."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from deme.runs import ExportSettings
from deme.system import (
    PACKAGE,
    BadConfig,
    MissingInput,
    files,
    first_lines,
    print_result,
    read_about,
)

WAN = "WanTransformer3DModel"  # whose pipeline takes two networks
SCRIPT = PACKAGE / "assets" / "route_loras.py"
CARD = """---
{front}---

# {name}

{count} LoRAs of `{base}`, each for a range of timesteps, not merged:

| file | from timestep | trained in |
|---|---|---|
{rows}

`from timestep` is compared with the timesteps of the pipeline's scheduler. Only one LoRA is used at
a time, so images take as long as with one LoRA. `route_loras.py` needs diffusers and peft.

## Use

```python
import sys

{imports}
{fetch}sys.path.append(folder)
from route_loras import load_loras

pipeline = {pipeline}.from_pretrained("{base}")
switch = load_loras(pipeline, folder)
images = pipeline({arguments}, callback_on_step_end=switch).images
```
"""
WAN_CARD = """---
{front}---

# {name}

A pipeline with two networks: `transformer` for timesteps from {ratio} of all on, `transformer_2`
for those with less noise.

```python
from diffusers import WanPipeline

pipeline = WanPipeline.from_pretrained("{called}")
```
"""


def check_experts(settings: ExportSettings, folders: Sequence[Path]) -> None:
    """Raise BadConfig for experts that no pipeline of diffusers can use unmerged."""
    from deme.builders.checkpoints import open_checkpoint
    from deme.models.adapter_files import is_adapter

    for key, default in (("format", "diffusers"), ("keep_projections", False)):
        if getattr(settings, key) != default:
            raise BadConfig(
                f"{key}={getattr(settings, key)} is of the export of one model, and several are "
                f"given\ntype: {key}={str(default).lower()}"
            )
    if all(map(is_adapter, folders)):
        if settings.boundary_ratio is not None:
            raise BadConfig(
                "boundary_ratio is of two models for Wan's pipeline, and these are LoRAs, whose "
                "ranges are known\ntype: boundary_ratio=null"
            )
        return
    if mixed := [folder for folder in folders if is_adapter(folder)]:
        raise BadConfig(f"{mixed[0]} is a LoRA, and the others are not")
    kinds = {str(open_checkpoint(folder).config.get("_class_name")) for folder in folders}
    if kinds != {WAN}:
        raise BadConfig(
            "of pipelines of diffusers only Wan's takes several networks; these are "
            f"{', '.join(sorted(kinds))}\ntype: deme merge 'inputs.experts=[...]' for one model, "
            "or train the experts with adapter=lora"
        )
    if len(folders) != 2:
        raise BadConfig(f"Wan's pipeline takes two networks, got {len(folders)}")


def write_experts(
    settings: ExportSettings, folders: Sequence[Path], out: Path, check: Callable[[], None]
) -> None:
    """Write LoRAs with their ranges, or two networks of Wan, into `out`. Raises BadConfig."""
    from deme.models.adapter_files import is_adapter

    fill = _loras(settings, folders) if is_adapter(folders[0]) else _wan(settings, folders)

    def whole(partial: Path) -> None:
        fill(partial)
        written = {
            p.relative_to(partial).as_posix(): files.sha256(p)
            for p in sorted(partial.rglob("*"))
            if p.is_file()
        }
        content = {"of": content_of(folders), "files": written}
        files.write_json(partial / "deme.json", {"export": content})

    files.write_folder(out, whole, check)
    print_result(
        f"exported {len(folders)} experts, not merged, to {out}; read its README.md before you "
        "share it"
    )


def content_of(folders: Sequence[Path]) -> str:
    """Return the hash of several models, in this order."""
    return files.sha256_text(" ".join(files.sha256(folder) for folder in folders))


def _loras(settings: ExportSettings, folders: Sequence[Path]) -> Callable[[Path], None]:
    """Return what writes LoRAs, and a script that uses each at its timesteps. Raises BadConfig."""
    import diffusers
    import torch

    from deme.builders.teachers import routed_experts
    from deme.models.adapter_files import WEIGHTS
    from deme.models.layout import read_json_object, scheduler_file
    from deme.models.noise import schedule_of
    from deme.report.model_card import public_base
    from deme.system import tensors

    experts, ranges = routed_experts(folders)
    configs = experts[0].configs  # the base's
    index = read_json_object(configs / "model_index.json")
    pipeline = str(index.get("_class_name", "pipeline"))
    if not hasattr(getattr(diffusers, pipeline, None), "load_lora_weights"):
        raise BadConfig(
            f"diffusers' {pipeline} has no LoRA loader, so it cannot use experts unmerged\n"
            "type: deme merge 'inputs.experts=[...]' lora.form=fuse"
        )
    base = public_base(str(read_about(experts[0].folder).get("base_model")))
    schedule, _ = schedule_of(read_json_object(scheduler_file(configs)))
    begins = schedule.timestep_input(torch.tensor([float(item.low) for item in ranges]))
    dtype: torch.dtype = getattr(torch, settings.dtype)
    found = [
        {
            "name": f"expert_{i}",
            "file": f"expert_{i}.safetensors",
            "from_timestep": float(begin) if i else 0.0,  # of a scheduler's
            "trained_in": [item.low, item.high],
        }
        for i, (item, begin) in enumerate(zip(ranges, begins, strict=True))
    ]
    told = {"base_model": base, "num_timesteps": ranges[-1].high, "experts": found}
    rows = "\n".join(
        f"| {row['file']} | {row['from_timestep']:g} | {item} |"
        for row, item in zip(found, ranges, strict=True)
    )
    fills_in = "Inpaint" in pipeline
    fetch = (
        f'folder = snapshot_download("{settings.push}")\n'
        if settings.push
        else f"folder = {json.dumps(str(settings.out))}\n"
    )
    card = CARD.format(
        front=_front(settings, base),
        name=Path(settings.push or settings.out).name,
        count=len(found),
        base=base,
        rows=rows,
        pipeline=pipeline,
        imports=f"from diffusers import {pipeline}\n"
        + ("from huggingface_hub import snapshot_download\n" if settings.push else ""),
        fetch=fetch,
        arguments='"a photo of a cat"' + (", image=image, mask_image=mask" if fills_in else ""),
    )

    def fill(partial: Path) -> None:
        for expert, row in zip(experts, found, strict=True):
            state = tensors.TensorFile(expert.folder / WEIGHTS).read_all()
            kept = {name: value.to(dtype) for name, value in state.items()}
            tensors.save(partial / str(row["file"]), kept)
        files.write_json(partial / "ranges.json", told)
        shutil.copyfile(SCRIPT, partial / SCRIPT.name)
        files.write_text(partial / "README.md", card)

    return fill


def _wan(settings: ExportSettings, folders: Sequence[Path]) -> Callable[[Path], None]:
    """Return what writes Wan's pipeline with two networks. Raises BadConfig, MissingInput."""
    from deme.builders.checkpoints import existing_network_folder, open_checkpoint
    from deme.merging.plan import differences
    from deme.models.frozen import copy_part
    from deme.models.layout import is_part, read_json_object

    if settings.dtype != "float32":
        raise BadConfig(
            "networks of Wan are written in the precision that they have\ntype: leave out dtype="
        )
    if settings.boundary_ratio is None:
        raise BadConfig(
            "it is not known at which timesteps these two models are used\n"
            "type: boundary_ratio=<number>, such as 0.875; Wan's pipeline uses the second model, "
            "that of more noise, from this share of the timesteps on"
        )
    low, high = (open_checkpoint(folder) for folder in folders)
    if problems := list(differences(low, high)):
        raise BadConfig("these models do not fit together:\n" + first_lines(problems))
    whole = [folder for folder in folders if (folder / "model_index.json").is_file()]
    if not whole:
        raise MissingInput(
            "none of the two models is a whole pipeline, which has the VAE and the text encoder\n"
            f"put model_index.json and these parts of Wan's pipeline into {folders[1]}"
        )
    index = read_json_object(whole[0] / "model_index.json")
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
    called = settings.push or str(settings.out)
    card = WAN_CARD.format(
        front=_front(settings, None),
        name=Path(called).name,
        called=called,
        ratio=settings.boundary_ratio,
    )

    def fill(partial: Path) -> None:
        for part in others:
            copy_part(whole[0] / part, partial / part, links=False)
        for part, folder in (("transformer", folders[1]), ("transformer_2", folders[0])):
            copy_part(existing_network_folder(folder), partial / part, links=False)
        files.write_json(partial / "model_index.json", index)
        files.write_text(partial / "README.md", card)

    return fill


def _front(settings: ExportSettings, base: str | None) -> str:
    """Return the front matter of a card for the Hugging Face Hub."""
    tags = ["diffusers", "deme", "decouple-then-merge", *(["lora"] if base else [])]
    front: dict[str, object] = {
        "library_name": "diffusers",
        "license": settings.license or "unknown",
        "tags": tags,
    }
    if base is not None and base.count("/") == 1 and not Path(base).exists():
        front["base_model"] = base
    return yaml.safe_dump(front, sort_keys=False)
