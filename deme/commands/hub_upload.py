"""Upload an exported folder to the Hugging Face Hub; by default, only say what that would do."""

import re
import shlex
from pathlib import Path

from deme.runs.settings.merging import ExportSettings
from deme.system import BadConfig, WorkFailed, print_result

# What the command that uploads repeats, where it differs.
DEFAULTS = {"dtype": "float32", "keep_projections": False, "license": None, "private": True}
NAME = r"[A-Za-z0-9][\w.-]*"


def check_name(name: str) -> None:
    """Raise BadConfig unless `name` is <owner>/<name>."""
    if not re.fullmatch(f"{NAME}/{NAME}", name):
        raise BadConfig(f"push takes <owner>/<name>, got {name!r}\ntype: push=<owner>/<name>")


def push(folder: Path, settings: ExportSettings) -> None:
    """Upload `folder` to the repository `settings.push`, or print the files and the command. Raises
    WorkFailed."""
    name, private = settings.push, settings.private
    assert name is not None
    kind = "private" if private else "public"
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    if settings.dry_run:
        total = sum(path.stat().st_size for path in paths)
        print_result(
            f"would upload {len(paths)} files, {_size(total)}, to {name} (made as a {kind} repository if it is not there):"
        )
        for path in paths:
            print_result(f"  {_size(path.stat().st_size):>10}  {path.relative_to(folder)}")
        words = [f"run={settings.run}", f"out={settings.out}"]
        words += [
            f"{key}={getattr(settings, key)}"
            for key, default in DEFAULTS.items()
            if getattr(settings, key) != default
        ]
        print_result(
            f"nothing was uploaded; to do it, type: deme export {shlex.join([*words, f'push={name}'])} dry_run=false"
        )
        return
    import huggingface_hub

    try:
        huggingface_hub.create_repo(name, private=private, exist_ok=True)
        huggingface_hub.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message=f"Export of {Path(str(settings.run)).name}",
            delete_patterns=["unet/*", "scheduler/*"],  # what an older export left there
        )
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WorkFailed(
            f"{folder} is not uploaded to {name}: {reason}\nthe folder is whole; log in with `hf auth login`, then type the same again"
        ) from error
    print_result(f"uploaded {len(paths)} files to https://huggingface.co/{name}")


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
