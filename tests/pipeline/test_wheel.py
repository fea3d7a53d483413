"""The wheel, installed outside the repository, works from an empty directory."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An unpacked wheel, built from the files that git knows."""
    folder = tmp_path_factory.mktemp("wheel")
    files = subprocess.check_output(
        ["git", "-C", REPOSITORY, "ls-files", "-co", "--exclude-standard"], text=True
    ).splitlines()
    for name in files:
        if (REPOSITORY / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((REPOSITORY / name).read_bytes())
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        folder / "source",
    ]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("deme_diffusion-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(folder / "site")
    return folder / "site"


def deme(installed, folder, *words):
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "deme", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_it_holds_the_options_the_base_and_the_licence(installed):
    for name in (
        "deme/conf/train.yaml",
        "deme/conf/experiment/digits/deme.yaml",
        "deme/assets/SHA256SUMS",
        "deme/assets/digits_base/unet/config.json",
        "deme/assets/digits_classifier.safetensors",
    ):
        assert (installed / name).is_file(), name
    assert list(installed.glob("deme_diffusion-*.dist-info/licenses/LICENSE"))
    assert (
        "deme = deme.__main__:main"
        in next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    )
    assert not (installed / "tests").exists()


def test_doctor_and_a_smoke_train_run_from_an_empty_directory(installed, tmp_path):
    doctor = deme(installed, tmp_path, "doctor")
    assert doctor.returncode == 0, doctor.stderr
    assert f"configuration: {installed}/deme/conf" in doctor.stdout
    assert "self-test passed" in doctor.stdout
    train = deme(
        installed,
        tmp_path,
        "train",
        "experiment=digits/deme",
        "expert=3",
        "num_steps=2",
        "batch_size=8",
    )
    assert train.returncode == 0, train.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    again = deme(
        installed,
        tmp_path,
        "train",
        "experiment=digits/deme",
        "expert=3",
        "num_steps=2",
        "batch_size=8",
    )
    assert again.stdout.startswith("runs/digits/train/deme-batch8-steps2-e3-s0-")
