"""`deme export`: write a run as a stock diffusers folder with a model card; upload it to the Hub.

By default, it only lists what an upload would do.
"""

import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from deme.commands.export_experts import check_experts, experts_writer
from deme.runs import ExportSettings, build, log_weights, weights_folder
from deme.system import (
    About,
    BadConfig,
    WorkFailed,
    cache_folder,
    expanded,
    files,
    first_line,
    locate,
    locked,
    logger,
    print_result,
    read_about,
    size_text,
)

# What the command that uploads repeats, where it differs.
DEFAULTS = {
    "format": "diffusers",
    "boundary_ratio": None,
    "dtype": "float32",
    "keep_projections": False,
    "license": None,
    "private": True,
}


def run(config: dict[str, object]) -> Path:
    """Write the folder, then upload it if asked for; return the folder."""
    settings = build(ExportSettings, config)
    places, out = [locate(each) for each in settings.runs], expanded(settings.out)
    sources = [weights_folder(place) for place in places]
    log_weights("run", places)
    if len(places) > 1:
        check_experts(settings, sources)
    elif settings.boundary_ratio is not None:
        raise BadConfig(
            f"boundary_ratio={settings.boundary_ratio} is for exporting two networks of Wan, and "
            "run= names one model\n"
            "type: boundary_ratio=null, or run='[<low noise>,<high noise>]'"
        )
    name = files.sha256_text(str(out.resolve()))[:32]
    lock = cache_folder(settings.paths) / "exports" / f"{name}.lock"
    with locked(lock, lambda owner: logger.info("%s is exporting to %s", owner, out)):
        hashes = [files.sha256(source) for source in sources]
        content = hashes[0] if len(hashes) == 1 else files.sha256_text(" ".join(hashes))
        check = partial(_check_out, out, sources, content, settings.overwrite)
        check()
        about: About = {}
        details: dict[str, object] = {}
        what = f"{len(places)} experts, not merged,"
        if len(places) > 1:
            fill = experts_writer(settings, sources)
        else:
            fill, details = _model_writer(settings, places[0], sources[0])
            about, what = read_about(sources[0]), str(places[0])

        def whole(folder: Path) -> None:
            fill(folder)
            export = {"of": content, **details, "files": _hashes(folder)}
            files.write_json(folder / "deme.json", {**about, "export": export})

        files.write_folder(out, whole, check)  # others may have written it meanwhile
    folded = " (projections folded)" if details.get("projections") == "folded" else ""
    print_result(f"exported {what} to {out}{folded}; read its README.md before you share it")
    if settings.push is not None:
        _push(out, settings.push, settings)
    return out


def _check_out(out: Path, sources: Sequence[Path], content: str, overwrite: bool) -> None:
    """Raise BadConfig if writing `out` would destroy anything of value.

    An untouched export of the same weights, whose sha256 is `content`, may be replaced.
    """
    whole, inside = out.resolve(), [source.resolve() for source in sources]
    if Path.cwd().is_relative_to(whole) or any(
        whole.is_relative_to(each) or each.is_relative_to(whole) for each in inside
    ):
        raise BadConfig(
            f"out={out} contains the model itself or the current folder\n"
            "type: out=<a folder of its own>"
        )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or out.is_symlink() or (out / ".git").exists():
        raise BadConfig(
            f"out={out} is a file, a link or a git repository\ntype: out=<a folder of its own>"
        )
    if overwrite:
        return
    export = read_about(out).get("export", {})
    written = export.get("files")
    if written is None or export.get("of") != content:
        what = (
            "exists and is not an export"
            if written is None
            else "contains the export of another model"
        )
        raise BadConfig(
            f"{out} {what}\ntype: out=<another folder>, or overwrite=true to replace it"
        )
    found = _hashes(out)
    if changed := [n for n in {**found, **written} if found.get(n) != written.get(n)]:
        raise BadConfig(
            f"{out} was changed since it was exported: {', '.join(sorted(changed)[:3])}\n"
            "type: out=<another folder>, or overwrite=true to lose these changes"
        )


def _hashes(folder: Path) -> dict[str, str]:
    found = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: files.sha256(path) for name, path in found.items() if name != "deme.json"}


def _model_writer(
    settings: ExportSettings, place: Path, source: Path
) -> tuple[Callable[[Path], None], dict[str, object]]:
    """Return what writes one model into a folder, and what deme.json says of the export.

    Raises BadConfig, WorkFailed.
    """
    import torch

    from deme.models.kohya import check_kohya, rename_as_kohya
    from deme.models.loading import load_folder
    from deme.report.model_card import model_card
    from deme.report.records import read_history

    model = load_folder(str(source))
    about = read_about(source)
    # a merge has multiplied foldable ones into their layers
    projections = about.get("projections") or "none"
    if model.projections is not None and settings.keep_projections:
        projections = "kept"
    elif model.projections is not None:
        if model.projections.placement != "foldable":
            raise BadConfig(
                f"{place} has channel projections in the paper's placement, which only deme's "
                "loader applies: stock diffusers would ignore them and draw other images\n"
                "type: keep_projections=true for a folder that needs deme (its card says so),\n"
                "or train with projection=foldable, which exports to a stock checkpoint"
            )
        projections = "folded"
        model.fold_projections()
    dtype: torch.dtype = getattr(torch, settings.dtype)
    state = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    if large := [name for name, value in state.items() if not bool(torch.isfinite(value).all())]:
        raise WorkFailed(
            f"{large[0]} has values too large for {settings.dtype}\ntype: dtype=bfloat16"
        )
    if settings.format == "kohya":
        check_kohya(model, place)
    counted = state if model.adapter is None else model.trained_parameters()
    count = sum(value.numel() for value in counted.values())
    record = read_history(place, settings.runs[0])
    card = model_card(record, settings, model, projections, count)

    def fill(folder: Path) -> None:
        model.write(folder, state, about)
        if settings.format == "kohya":
            rename_as_kohya(folder)
        files.write_text(folder / "README.md", card)

    return fill, {"dtype": settings.dtype, "projections": projections}


def _push(folder: Path, name: str, settings: ExportSettings) -> None:
    """Upload `folder` to the repository `name`, or print the files and the command.

    Raises WorkFailed.
    """
    sizes = {p: p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    if settings.dry_run:
        print_result(
            f"would upload {len(sizes)} files, {size_text(sum(sizes.values()))}, to {name} "
            f"(made as a {'private' if settings.private else 'public'} repository if it does not "
            "exist):"
        )
        for path, size in sizes.items():
            print_result(f"  {size_text(size):>10}  {path.relative_to(folder)}")
        typed = ",".join(settings.runs)
        words = [
            f"run=[{typed}]" if len(settings.runs) > 1 else f"run={typed}",
            f"out={settings.out}",
        ]
        words += [
            f"{key}={getattr(settings, key)}"
            for key, default in DEFAULTS.items()
            if getattr(settings, key) != default
        ]
        command = shlex.join(["deme", "export", *words, f"push={name}", "dry_run=false"])
        print_result(f"nothing was uploaded; to do it, type: {command}")
        return
    import huggingface_hub

    try:
        huggingface_hub.create_repo(name, private=settings.private, exist_ok=True)
        huggingface_hub.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message=f"Export of {folder.name}",
            delete_patterns=[
                "unet/*",
                "transformer/*",
                "transformer_2/*",
                "scheduler/*",
                "expert_*.safetensors",
                "pytorch_lora_weights.safetensors",
            ],  # what an older export left there
        )
    except Exception as error:
        raise WorkFailed(
            f"{folder} is not uploaded to {name}: {first_line(error)}\n"
            "the folder is complete; log in with `hf auth login`, then type the same again"
        ) from error
    print_result(f"uploaded {len(sizes)} files to https://huggingface.co/{name}")
