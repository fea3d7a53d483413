"""Where a run comes from: versions, platform, git state and the hashes of its inputs."""

import contextlib
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from deme.system import PACKAGE

LIBRARIES = (
    "torch",
    "pytorch-lightning",
    "diffusers",
    "hydra-core",
    "omegaconf",
    "safetensors",
    "numpy",
    "scikit-learn",
    "pillow",
    "torch-fidelity",
    "prdc",
)


def provenance(
    inputs: Mapping[str, Sequence[Path]], hashes: Mapping[str, Sequence[str]]
) -> dict[str, object]:
    """Return versions, platform, git state, the command, and the hash of every input."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "deme": metadata.version("deme-diffusion"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "git": _git(),
        "directory": str(Path.cwd()),
        "command": [word for word in sys.argv[1:] if not word.startswith("hydra")],
        "inputs": {
            name: dict(zip(map(str, paths), hashes.get(name, []), strict=False))
            for name, paths in inputs.items()
        },
    }


def _git() -> dict[str, object] | None:
    if not (PACKAGE.parent / ".git").exists():
        return None
    with contextlib.suppress(OSError, subprocess.CalledProcessError):

        def ask(*words: str) -> str:
            return subprocess.check_output(
                ["git", "-C", str(PACKAGE.parent), *words], text=True, stderr=subprocess.DEVNULL
            ).strip()

        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    return None
