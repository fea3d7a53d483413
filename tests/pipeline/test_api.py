"""`import deme`: the commands as functions."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import deme
from deme.api.calls import as_overrides
from deme.runs import compose_stage
from tests.pipeline.program import done

TINY = {"num_steps": 4, "batch_size": 8, "progress.preview.num_images": 4,
        "progress.preview.num_inference_steps": 2}  # fmt: skip
MEASURE = {"num_images": 40, "batch_size": 20, "shard_size": 20, "metrics.replicates": 4,
           "sampler.num_inference_steps": 2, "metrics.loss.draws": 1}  # fmt: skip


@pytest.fixture
def images(in_tmp):
    """A folder of grey images whose name needs quotes on a command line."""
    folder = in_tmp / "my images, 2"
    folder.mkdir()
    for index in range(80):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return folder


def test_a_loop_on_own_images_takes_two_imports_and_finds_its_runs_again(images):
    experts = deme.decouple("asset:digits_base", images, num_ranges=2, **TINY)
    merged = deme.merge(experts)
    before = deme.evaluate("asset:digits_base", images, **{"metrics.replicates": 4})
    after = deme.evaluate(merged, images, **{"metrics.replicates": 4})
    routed = deme.evaluate(experts, images, **{"metrics.replicates": 4})
    difference = deme.compare(after, before)["loss"]
    assert difference.value == pytest.approx(after.metrics["loss"] - before.metrics["loss"])
    assert routed.metrics["loss"] not in (after.metrics["loss"], before.metrics["loss"])

    assert deme.compare(after, before).keys() == {"loss", *(f"loss/{n}" for n in range(4))}
    assert difference.of_one_model  # the experts' seed is that of the merge and its evaluation
    assert [row["seed"] for row in deme.list_runs(stage="merge")] == [0]
    table = repr(deme.compare(after, before))
    for text in (
        f"{after.metrics['loss']:.5f}",
        f"{before.metrics['loss']:.5f}",
        f"{difference.value:+.5f}",
        difference.verdict,
    ):
        assert text in table
    assert repr(after).startswith(f"Result('{after.path}', done after ")
    assert f"loss {after.metrics['loss']:.5f})" in repr(after)

    times = [file.stat().st_mtime_ns for file in Path("runs").rglob("status.json")]
    assert deme.decouple("asset:digits_base", images, num_ranges=2, **TINY) == experts
    assert deme.merge(experts) == merged
    assert [file.stat().st_mtime_ns for file in Path("runs").rglob("status.json")] == times

    mean = [
        torch.stack(w).mean(0) for w in zip(*(e.load().parameters() for e in experts), strict=True)
    ]
    for ours, one in zip(merged.load().parameters(), mean, strict=True):
        assert torch.allclose(ours, one, atol=1e-6)
    out = merged.export("better")
    assert (out / "model_index.json").exists()
    assert merged.report().read_text().startswith("<!doctype html>")


def test_samples_are_a_picture(in_tmp, capsys):
    few = {"num_images": 4, "sampler": {"num_inference_steps": 2}}
    one = deme.sample("digits_base", **few)
    assert (one.mode, one.size) == ("L", (2 * 34 + 2, 2 * 34 + 2))  # 8 pixels, four times enlarged
    assert one.tobytes() == deme.sample("asset:digits_base", **few).tobytes()
    assert one.tobytes() != deme.sample("digits_base", sample_seed=1, **few).tobytes()
    both = deme.sample({"before, here": "digits_base", "it's {both}": ["digits_base"]}, **few)
    assert both.width > 2 * one.width
    assert not list(Path().iterdir())
    assert deme.sample("digits_base", out="grid.png", **few).size == one.size
    assert Path("grid.png").exists()
    assert capsys.readouterr().out == ""
    with pytest.raises(deme.BadConfig, match="num_image"):
        deme.sample("digits_base", num_image=3)


def test_the_doctor_says_what_fits_and_shows_the_images(images, capsys):
    picture = deme.doctor("digits_base", images, passport={"num_images": 16})
    assert picture.size == (8 * 34 + 2, 8 * 34 + 2)
    said = capsys.readouterr().out
    assert "72 training images, 8 held out" in said
    assert "passport: " in said
    assert Path("doctor.png").exists()


def test_a_result_of_a_run_that_is_gone_can_be_shown(in_tmp):
    assert repr(deme.Result(Path("runs/gone"))) == "Result('runs/gone')"


@pytest.mark.slow
def test_runs_of_an_option_without_a_path_of_its_averages_have_a_base(in_tmp):
    words = ["train", "model=digits_base", "method=deme", "ranges.num_ranges=2"]
    tiny = [f"{key}={value}" for key, value in TINY.items()]
    experts = [done([*words, *tiny, f"expert={n}"], in_tmp) for n in (0, 1)]
    merged = deme.merge(experts)
    assert merged.config["model"]["path"] == "asset:digits_base"


def test_settings_are_those_of_the_command(in_tmp):
    tuned = deme.finetune(
        "digits_base", "digits", weighting="min_snr", optimizer={"lr": 3e-5}, **TINY
    )
    assert tuned.config["optimizer"]["lr"] == 3e-5
    assert tuned.config["weighting"]["_target_"].endswith("MinSNR")
    (row,) = deme.list_runs(stage="train")
    assert (row["path"], row["state"], row["weighting"]) == (tuned.path, "done", "min_snr")
    assert deme.list_runs(state="failed") == []
    command = (tuned.path / "run.json").read_text()
    assert '"weighting=min_snr"' in command


def test_slips_raise_what_the_command_would_say(in_tmp):
    with pytest.raises(deme.BadConfig, match="num_steps"):
        deme.finetune("digits_base", "digits", num_step=3)
    with pytest.raises(deme.MissingInput, match="nowhere"):
        deme.finetune("nowhere/", "digits")
    with pytest.raises(deme.BadConfig, match="num_ranges"):
        deme.decouple("digits_base", "digits", num_ranges=1)
    with pytest.raises(deme.BadConfig, match="method=deme"):
        deme.decouple("digits_base", "digits", method="finetune")
    with pytest.raises(deme.BadConfig, match=r"deme\.decouple"):
        deme.merge([])
    with pytest.raises(AttributeError):
        deme.nothing  # noqa: B018
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "value",
    ["plain", "a b", "it's, [here]", "back\\slash", "", None, True, 3, 1e-5, [1, "two words"],
     "null", "1e3", "\\", "a\\'b", "true", "C:\\new\\", "50%", "{a: b}", "-x", "~/images"],
)  # fmt: skip
def test_a_value_reaches_the_configuration_as_it_is(value):
    config = compose_stage("train", [f"+{word}" for word in as_overrides({"cell": {"x": value}})])
    found = config["cell"]["x"]
    assert found == value
    assert type(found) is type(value)


def test_nested_settings_have_dots():
    settings = {"a": {"b": {"c": 1}}, "d.e": 2, "f": {}}
    assert as_overrides(settings) == ["a.b.c=1", "d.e=2"]


def test_importing_deme_imports_nothing_heavy():
    code = "import deme, sys; dir(deme); print([m for m in ('torch', 'hydra') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_model_is_a_torch_module():
    model = deme.load("asset:digits_base")
    x, t = torch.zeros(2, *model.image_shape), torch.tensor([1, 999])
    assert math.isfinite(model(x, t).sum().item())
