"""Upload an exported folder to the Hugging Face Hub; by default, only say what that would do."""

import re
import shlex
from pathlib import Path

from rich.filesize import decimal

from deme.runs.settings.merging import ExportSettings
from deme.system import BadConfig, WorkFailed, print_result

# What the command that uploads repeats, where it differs.
DEFAULTS = {"dtype": "float32", "keep_projections": False, "license": None, "private": True}
NAME = r"[A-Za-z0-9][\w.-]*"


def check_name(name: str) -> None:
    """Raise BadConfig unless `name` is <owner>/<name>."""
    if not re.fullmatch(f"{NAME}/{NAME}", name):
        raise BadConfig(f"push takes <owner>/<name>, got {name!r}\ntype: push=<owner>/<name>")


def push(folder: Path, name: str, settings: ExportSettings) -> None:
    """Upload `folder` to the repository `name`, or print the files and the command.

    Raises WorkFailed.
    """
    sizes = {p: p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    if settings.dry_run:
        print_result(
            f"would upload {len(sizes)} files, {decimal(sum(sizes.values()))}, to {name} (made as "
            f"a {'private' if settings.private else 'public'} repository if it is not there):"
        )
        for path, size in sizes.items():
            print_result(f"  {decimal(size):>10}  {path.relative_to(folder)}")
        words = [f"run={settings.run}", f"out={settings.out}"]
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
            commit_message=f"Export of {Path(settings.run).name}",
            delete_patterns=["unet/*", "scheduler/*"],  # what an older export left there
        )
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WorkFailed(
            f"{folder} is not uploaded to {name}: {reason}\n"
            "the folder is whole; log in with `hf auth login`, then type the same again"
        ) from error
    print_result(f"uploaded {len(sizes)} files to https://huggingface.co/{name}")
