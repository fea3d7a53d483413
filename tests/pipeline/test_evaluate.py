"""`deme evaluate` by several processes, on folders of images, with every metric; stats, sample, compare."""

import io
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from deme.commands.compare import _partnered
from deme.data.digits import load_digits
from deme.report.statistics import RunSeeds
from deme.system import tensors
from tests.pipeline.program import TINY_EVALUATE, TINY_EXPERTS, done, run, start
from tests.pipeline.test_errors import fails

SLOW_IMAGES = """
import time
import deme.evaluation.sources as sources
real = sources.generate_images
def slow(*args):
    for batch in real(*args):
        time.sleep(0.1)
        print(f"made {len(batch)} images", flush=True)
        yield batch
sources.generate_images = slow
"""
BASE = "deme/assets/digits_base"


def results(run_dir: Path) -> dict[str, bytes]:
    files = [run_dir / "metrics.json", run_dir / "replicates.json", run_dir / "samples/grid.png"]
    files += sorted((run_dir / "moments").iterdir()) + sorted((run_dir / "samples").glob("images*"))
    return {str(file.relative_to(run_dir)): file.read_bytes() for file in files if file.is_file()}


def metrics(run_dir: Path) -> dict:
    return json.loads((run_dir / "metrics.json").read_text())["metrics"]


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """The base, evaluated with everything, images kept as a zip file."""
    folder = tmp_path_factory.mktemp("honest")
    words = [
        "evaluate",
        *TINY_EVALUATE,
        "metrics.kid=true",
        "metrics.nearest_k=3",
        "save_images=zip",
    ]
    return done(words, folder), words


def test_every_number_says_what_it_is(honest):
    found = metrics(honest[0])
    names = {
        "fd_digits",
        "kid_digits",
        "precision_digits",
        "recall_digits",
        "density_digits",
        "coverage_digits",
    }
    assert {name for name in found if "/" not in name} == names | {"loss"}
    for name in names:
        assert found[name]["n"] == 200
        assert (
            found[name]["reference"]
            == f"359 held-out images ({load_digits().held_out.content_hash()[:8]})"
        )
        assert (
            "digit classifier, 64 penultimate activations (weights "
            in found[name]["implementation"]
        )
        assert found[name]["better"] == (
            "lower" if name in ("fd_digits", "kid_digits") else "higher"
        )
    assert found["kid_digits"]["standard_error"] > 0
    low, high = found["fd_digits"]["interval"]
    assert low < found["fd_digits"]["value"] < high
    assert not list(honest[0].glob("samples/features*"))


def test_two_processes_make_the_same_bits_as_one(honest, tmp_path):
    run_dir, words = honest
    code, text = run([*words, "progress.processes=2"], tmp_path)
    assert code == 0, text
    (helped,) = tmp_path.glob("runs/scratch/evaluate/*")
    assert helped.name == run_dir.name
    assert results(helped) == results(run_dir)
    assert "warning" not in text


def test_the_same_command_typed_twice_at_once_works_together(honest, tmp_path):
    run_dir, words = honest
    programs = [start(words, tmp_path, SLOW_IMAGES) for _ in range(2)]
    assert [p.wait() for p in programs] == [0, 0], [p.text for p in programs]
    texts = sorted((p.text for p in programs), key=lambda text: "helping" in text)
    assert "helping" in texts[1]
    assert "was done by another process" in texts[1]
    assert "evaluated runs/" in texts[0]
    assert "evaluated runs/" not in texts[1]
    assert all("made 25 images" in text for text in texts)
    (only,) = tmp_path.glob("runs/scratch/evaluate/*")
    assert results(only) == results(run_dir)
    assert not list(only.glob("samples/features*"))


def test_saved_images_are_exactly_those_measured(honest, tmp_path):
    run_dir, words = honest
    as_files = done([*words[:-1], "save_images=png"], tmp_path)
    pictures = sorted((as_files / "samples/images").iterdir())
    assert [p.name for p in pictures] == [f"{i:07d}.png" for i in range(200)]
    with zipfile.ZipFile(run_dir / "samples/images.zip") as archive:
        assert archive.namelist() == [p.name for p in pictures]
        for picture in pictures[::20]:
            with (
                Image.open(picture) as one,
                Image.open(io.BytesIO(archive.read(picture.name))) as other,
            ):
                assert np.array_equal(np.asarray(one), np.asarray(other))
                assert one.size == (8, 8)
    folder = ["evaluate", "source=images", f"inputs.images={as_files}/samples/images", *TINY_EVALUATE, "num_images=200",
              "metrics.kid=true", "metrics.nearest_k=3"]  # fmt: skip
    of_folder = metrics(done(folder, tmp_path))
    for name, metric in metrics(run_dir).items():
        if name.partition("/")[0] != "loss":
            assert of_folder[name]["value"] == metric["value"], name
    assert "loss" not in of_folder
    code, text = run([*folder, "num_images=201"], tmp_path)
    assert code == 2
    assert "num_images=201" in text
    assert "type: num_images=200" in text


def test_images_of_two_sizes_are_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    for index, size in enumerate([(8, 8), (8, 8), (9, 8)]):
        Image.new("L", size).save(tmp_path / "folder" / f"{index}.png")
    words = [
        "evaluate",
        "source=images",
        "inputs.images=folder",
        "num_images=3",
        "metrics.replicates=2",
    ]
    code, text = run(words, tmp_path)
    assert code == 2
    assert "2.png has 9 x 8 pixels, " in text
    (tmp_path / "folder" / "2.png").write_bytes(b"no picture")
    code, text = run(words, tmp_path)
    assert code == 4
    assert "2.png is not an image that can be read" in text


def test_statistics_in_a_file_give_the_same_distance(honest, tmp_path):
    run_dir, _ = honest
    code, text = run(["stats", "out=held_out.npz"], tmp_path)
    assert code == 0, text
    assert "359 held-out images (" in text
    assert "): digit classifier, 64 penultimate activations, weights c6ec3b2aaa0f" in text
    words = ["evaluate", *TINY_EVALUATE, "+metrics.statistics.digits.path=held_out.npz"]
    found = metrics(done(words, tmp_path))["fd_digits"]
    assert found["value"] == pytest.approx(metrics(run_dir)["fd_digits"]["value"], rel=1e-9)
    assert found["reference"].startswith("359 images (held_out.npz ")
    code, text = run([*words, "metrics.kid=true"], tmp_path)
    assert code == 2
    assert "type: metrics.kid=false metrics.nearest_k=null" in text
    np.savez(tmp_path / "other.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    code, text = run(
        ["evaluate", *TINY_EVALUATE, "+metrics.statistics.digits.path=other.npz"], tmp_path
    )
    assert code == 2
    assert "other.npz holds statistics of another extractor: 2048 numbers per image" in text
    code, text = run(
        ["evaluate", *TINY_EVALUATE, "+metrics.statistics.digit.path=other.npz"], tmp_path
    )
    assert "metrics.statistics names digit; extractors here: digits" in text


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["metrics.features.digits.sha256=0123"], 2, "sha256 is c6ec3b2a"),
        (["num_images=1"], 2, "num_images=1"),
        (["metrics.nearest_k=5", "num_images=6"], 2, "at least 7 images"),
        (["metrics.reference=heldout"], 2, "metrics.reference must be one of held_out, train, all"),
        (["save_images=jpg"], 2, "save_images must be one of png, zip"),
        (["source=images"], 2, "inputs.images=<folder>"),
        (["source=real", "inputs.weights=deme"], 2, "type: source=weights"),
        (["metrics.kid=no"], 2, "metrics.kid must be true or false"),
        (["sampler.clip_sample=maybe"], 2, "sampler.clip_sample must be true or false"),
        (["logger=wandb", "logger.mode=nonsense"], 2, "logger.mode must be one of online, offline, disabled"),
        (["metrics.features=digits"], 2, "metrics.features must be"),
        (["metrics.loss=3"], 2, "metrics.loss must be"),
        (["+metrics.statistics.digits=foo.npz"], 2, "metrics.statistics.digits must be"),
        (["metrics.features.digits.path=deme/assets/digits_base/unet/diffusion_pytorch_model.safetensors"], 2, "holds no digit classifier"),
        (["data=image_folder", "data.path=pictures", "data.size=16", "data.channels=1"], 2,
         "type: data.size=8, or choose another model= or data="),
        (["source=images", "inputs.images=deme"], 3, "holds no images"),
        (["inputs.weights=hub:nobody/nothing"], 3, "hub:nobody/nothing is not in the Hub's cache and cannot be downloaded"),
        (["metrics=inception768", "metrics.path=none.pth"], 3, "deme: none.pth does not exist"),
        (["metrics=inception768", f"metrics.path={BASE}/unet/diffusion_pytorch_model.safetensors"], 2,
         "layer 768, first Conv2d_1a_3x3.conv.weight"),
        (["metrics=inception768"], 2, "metrics.path must be given"),
        (["progress.processes=0"], 2, "progress.processes must be"),
        (["compute.precision=bf16"], 2, "compute.precision must be one of 32-true, bf16-mixed, 16-mixed"),
        (["metrics.features.digits._target_=deme.metrics.inception.InceptionFeatures",
          "+metrics.features.digits.layer=100"], 2, "Inception has no layer 100"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(words, code, message, tmp_path):
    shutil.copytree(Path(__file__).parents[2] / "deme" / "assets", tmp_path / "deme" / "assets")
    (tmp_path / "pictures").mkdir()
    for index in range(20):
        Image.new("L", (20, 20)).save(tmp_path / "pictures" / f"{index}.png")
    found, text = run(["evaluate", *TINY_EVALUATE, *words], tmp_path)
    assert found == code, text
    assert message in text
    assert "Traceback" not in text
    log = re.compile(r"\d\d:\d\d:\d\d ")
    assert len([line for line in text.strip().splitlines() if not log.match(line)]) <= 3


def test_colour_images_for_a_grey_extractor_are_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    for index in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / "folder" / f"{index}.png")
    code, text = run(
        ["evaluate", "source=images", "inputs.images=folder", "num_images=3"], tmp_path
    )
    assert code == 2
    assert "fd_digits" in text
    assert "(3, 8, 8)" in text


def test_several_models_are_drawn_from_the_same_noise(tmp_path):
    experts = [
        done(["train", f"expert={i}", *TINY_EXPERTS, "num_steps=2"], tmp_path) for i in (0, 1)
    ]
    given = f"{{before: asset:digits_base, routed: [{experts[0]},{experts[1]}], expert 0: {experts[0]}}}"
    quick = ["num_images=9", "sampler.num_inference_steps=5"]
    code, text = run(["sample", f"run={given}", *quick], tmp_path)
    assert code == 0, text
    assert "before: " in text
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.width > 3 * 200
    code, text = run(["sample", "run=asset:digits_base", "out=one.png", *quick], tmp_path)
    assert code == 0, text
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.size == (104, 104)  # 3 x 3 tiles of 32, with gaps
    code, text = run(["sample", "run={a: 3}", *quick], tmp_path)
    assert code == 2
    assert "run must be a run or model folder, a list of experts, or {label: ...}; got 3" in text


def test_a_difference_is_taken_of_evaluations_that_have_a_partner():
    one, other, base = (
        dict.fromkeys(RunSeeds(*seeds) for seeds in cells)
        for cells in (
            [(0, 7), (1, 7), (1, 8)],
            [(1, 7), (2, 7), (1, 9)],
            [(None, 7), (None, 9)],
        )
    )
    assert [*_partnered(one, other)] == [*_partnered(other, one)] == [RunSeeds(1, 7)]
    assert [*_partnered(one, base)] == [RunSeeds(0, 7), RunSeeds(1, 7)]
    assert [*_partnered(base, one)] == [RunSeeds(None, 7)]


def test_two_evaluations_are_compared_in_pairs(tmp_path):
    model = Path(shutil.copytree(Path(__file__).parents[2] / BASE, tmp_path / "model"))
    weights = model / "unet/diffusion_pytorch_model.safetensors"
    state = tensors.TensorFile(weights).read_all()
    tensors.save(weights, {name: value * 0.99 for name, value in state.items()})
    more = ["metrics.kid=true", "metrics.nearest_k=3"]
    every = [
        "evaluate",
        "-m",
        *TINY_EVALUATE,
        *more,
        "sample_seed=0,1",
        "inputs.weights=null,model",
    ]
    code, text = run(every, tmp_path)
    assert code == 0, text
    found = [
        tmp_path / line.split(": ")[0].split()[1]
        for line in text.splitlines()
        if line.startswith("evaluated ")
    ]
    assert len(found) == 4
    one = [
        p
        for p in found
        if yaml.safe_load((p / "config.yaml").read_text())["inputs"]["weights"] is None
    ]
    two = [p for p in found if p not in one]
    words = [",".join(str(p.relative_to(tmp_path)) for p in each) for each in (two, one)]
    code, text = run(["compare", *words], tmp_path)
    assert code == 0, text
    means = [np.mean([metrics(p)["fd_digits"]["value"] for p in each]) for each in (two, one)]
    line = next(line for line in text.splitlines() if "fd_digits" in line)
    assert f"{means[0] - means[1]:+.2f} [" in line
    assert "Paired over sampling seeds [0, 1]" in text
    code, turned = run(["compare", *words[::-1]], tmp_path)
    assert f"{means[1] - means[0]:+.2f} [" in next(
        line for line in turned.splitlines() if "fd_digits" in line
    )
    assert "precision_digits" in text
    other = done(["evaluate", *TINY_EVALUATE, "num_images=100"], tmp_path)
    code, text = run(["compare", str(other), str(one[0])], tmp_path)
    assert code == 2
    assert "n is 100 and 200" in text
    code, text = run(["compare", str(one[0]), str(two[1])], tmp_path)
    assert code == 2
    assert "[0] and [1]" in text
    fewer = done(["evaluate", *TINY_EVALUATE, "metrics.replicates=11"], tmp_path)
    code, text = run(["compare", str(fewer), str(one[0])], tmp_path)
    assert code == 2
    assert "10 and 11" in text
    assert "metrics.replicates" in text
    code, text = run(["compare", str(one[0])], tmp_path)
    assert code == 2
    assert "got 1" in text


def test_real_images_score_as_well_as_they_can(tmp_path):
    run_dir = done(["evaluate", "source=real", *TINY_EVALUATE], tmp_path)
    (found,) = metrics(run_dir).values()
    assert found["std"] > 0
    assert found["value"] < 60
    with Image.open(run_dir / "samples/grid.png") as picture:
        first = np.asarray(picture)[2:34, 2:34]
    expected = load_digits().train.pixels[0, 0].numpy().repeat(4, 0).repeat(4, 1)
    assert np.array_equal(first, expected)


def test_half_precision_samples_other_images_but_the_loss_stays_exact(honest, tmp_path):
    run_dir, words = honest
    half = done([*words, "compute.precision=bf16-mixed"], tmp_path)
    found, exact = metrics(half), metrics(run_dir)
    assert found["loss"]["value"] == exact["loss"]["value"]
    assert found["fd_digits"]["value"] != exact["fd_digits"]["value"]
    assert found["fd_digits"]["value"] == pytest.approx(exact["fd_digits"]["value"], rel=0.1)
    code, text = run(["verify", f"run={half}"], tmp_path)
    assert code == 0, text


def test_more_than_8_bits_are_refused_and_changed_pictures_measured_again(tmp_path):
    (tmp_path / "folder").mkdir()
    for index in range(4):
        Image.fromarray(np.full((8, 8), 40 * index, np.uint8)).save(
            tmp_path / "folder" / f"{index}.bmp"
        )
    words = [
        "evaluate",
        "source=images",
        "inputs.images=folder",
        "num_images=4",
        "metrics.replicates=5",
    ]
    first = done(words, tmp_path)
    for index in range(4):  # other pictures in files of the same names and sizes
        Image.fromarray(np.full((8, 8), 255 - 20 * index, np.uint8)).save(
            tmp_path / "folder" / f"{index}.bmp"
        )
    again = done(words, tmp_path)
    assert again != first
    assert metrics(again)["fd_digits"]["value"] != metrics(first)["fd_digits"]["value"]
    Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(tmp_path / "folder" / "0.png")
    code, text = run([*words, "num_images=5"], tmp_path)
    assert code == 2
    assert "0.png has more than 8 bits a channel (mode I;16)" in text


CRASH = """
import deme.evaluation.images as images
def crash(run):
    images.FeatureShards(run, 0, 1).path(0).unlink()
    import os
    os._exit(9)
images.clear = crash
"""
CRASH_ZIP = """
import os, shutil
real = shutil.rmtree
def crash(folder, ignore_errors=False):
    if folder.name != "images":
        return real(folder, ignore_errors)
    for picture in sorted(folder.iterdir())[50:]:
        picture.unlink()
    os._exit(9)
import deme.evaluation.images
deme.evaluation.images.shutil.rmtree = crash
"""


@pytest.mark.parametrize(
    "patch", [CRASH, CRASH_ZIP], ids=["while clearing", "while deleting pictures"]
)
def test_a_kill_at_the_end_loses_no_saved_image_and_no_number(patch, honest, tmp_path):
    run_dir, words = honest
    code, _ = run(words, tmp_path, patch)
    assert code == 9
    (killed,) = tmp_path.glob("runs/scratch/evaluate/*")
    assert json.loads((killed / "status.json").read_text())["state"] == "running"
    assert results(done(words, tmp_path)) == results(run_dir)
    assert not list(killed.glob("samples/features*"))
    assert not list(killed.glob("samples/resamples*"))


def test_a_failing_tracker_does_not_cost_the_images(tmp_path):
    words = ["evaluate", *TINY_EVALUATE, "logger=wandb"]
    patch = """
from deme.tracking.wandb_tracker import Wandb
def publish(*_):
    raise OSError("no network")
Wandb.publish = publish
"""
    fails(words, tmp_path, 4, "no network", "deme publish", patch=patch)
    none_again = "import deme.evaluation.sources as sources; sources.generate_images = None"
    code, text = run(words, tmp_path, none_again)
    assert code == 0, text
    assert list(tmp_path.glob("runs/scratch/tracking/wandb/offline-run-*/*.wandb"))
