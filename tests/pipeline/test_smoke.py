"""The whole path at tiny size: `deme reproduce`, the same by hand, the table, the notebook, and what is skipped."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import stats

from deme.diffusion import uniform
from deme.models.layout import UNET
from deme.report.rows import SuiteResults
from deme.runs import Suite, options
from deme.system import tensors
from tests.notebooks import FOLDER, executed, kinds, outputs, read
from tests.pipeline.program import TINY_EVALUATE, TINY_EXPERTS, TINY_TRAIN, done, run, start

REPOSITORY = Path(__file__).parents[2]
SMOKE = REPOSITORY / "experiments" / "digits" / "smoke.yaml"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A folder in which the smoke suite was reproduced, by two processes."""
    folder = tmp_path_factory.mktemp("smoke")
    code, text = run(["reproduce", str(SMOKE), "jobs=2"], folder)
    assert code == 0, text
    return folder


def test_every_row_is_measured_and_says_how(smoke):
    text = (smoke / "runs/digits_smoke/results/digits_smoke.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    spec = yaml.safe_load(SMOKE.read_text())
    for row in (row for row in spec["rows"] if "evaluate" in row):
        assert any(line.startswith(f"| {row['label']} |") for line in rows)
    assert "Not measured yet" not in text
    assert "n = 200 against 359 held-out images" in text
    for file in (
        "digits_smoke.tex",
        "digits_smoke.csv",
        "samples.png",
        "differences.png",
        "loss_per_range.png",
        "task_weights.png",
    ):
        assert (smoke / "runs/digits_smoke/results" / file).stat().st_size > 300


def test_a_run_directory_describes_itself(smoke):
    for status in smoke.glob("runs/digits_smoke/*/*/status.json"):
        folder = status.parent
        assert json.loads(status.read_text())["state"] == "done"
        assert yaml.safe_load((folder / "config.yaml").read_text())["stage"] == folder.parent.name
        about = json.loads((folder / "run.json").read_text())
        assert about["versions"]["torch"] == torch.__version__.split("+")[0]
        if folder.parent.name == "evaluate":
            metrics = json.loads((folder / "metrics.json").read_text())
            assert metrics["cell"]["suite"] == "digits_smoke"
            for metric in metrics["metrics"].values():
                assert metric.keys() >= {"value", "n", "reference", "implementation"}
            assert (folder / "samples" / "grid.png").exists()
            assert not list(folder.glob("samples/features*"))
        if folder.parent.name == "train":
            steps = [
                json.loads(line)["step"]
                for line in (folder / "metrics.jsonl").read_text().splitlines()
            ]
            assert steps == [0, 1, 2, 3]
            assert not (folder / "checkpoints" / "last.ckpt").exists()


def test_named_loss_terms_are_logged_and_sum_to_the_loss(smoke):
    curves = list(smoke.glob("runs/digits_smoke/train/deme-*/metrics.jsonl"))
    assert len(curves) == 2
    for line in "".join(p.read_text() for p in curves).splitlines():
        row = json.loads(line)
        assert row["loss"] == pytest.approx(
            row["loss/denoising"] + row["loss/consistency"], rel=1e-5
        )


def test_typed_again_it_skips_everything_and_keeps_every_file(smoke):
    before = {
        p: p.stat().st_mtime_ns
        for p in smoke.glob("runs/digits_smoke/*/*/*")
        if p.is_file() and p.name != ".lock"
    }
    code, text = run(["reproduce", str(SMOKE)], smoke)
    assert code == 0
    assert "23 runs, 23 done already, skipping those" in text
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_three_tables_at_once_are_one(smoke, tmp_path):
    shutil.copytree(smoke / "runs", tmp_path / "runs")
    results = tmp_path / "runs/digits_smoke/results"
    expected = {file.name: file.read_bytes() for file in results.iterdir()}
    shutil.rmtree(results)
    programs = [start(["table", str(SMOKE)], tmp_path) for _ in range(3)]
    assert [program.wait() for program in programs] == [0] * 3, [p.text for p in programs]
    assert {file.name: file.read_bytes() for file in results.iterdir()} == expected


def test_pictures_are_drawn_again_only_if_missing_or_of_other_numbers(smoke, tmp_path):
    shutil.copytree(smoke / "runs", tmp_path / "runs")
    results = tmp_path / "runs/digits_smoke/results"
    pictures = {file: file.stat().st_mtime_ns for file in results.glob("*.png")}
    (results / "samples.png").unlink()
    assert run(["table", str(SMOKE)], tmp_path)[0] == 0
    drawn = {file for file, time in pictures.items() if file.stat().st_mtime_ns != time}
    assert drawn == {results / "samples.png"}
    (results / "digits_smoke.csv").write_text("row,metric\n")
    assert run(["table", str(SMOKE)], tmp_path)[0] == 0
    assert all(file.stat().st_mtime_ns != time for file, time in pictures.items())


def test_the_plan_tells_what_is_done_and_what_a_missing_run_needs(smoke, tmp_path):
    code, text = run(["plan", str(SMOKE), f"runs={smoke}/runs"], tmp_path)
    assert code == 0
    assert "23 of 23 runs done" in text
    assert " forward passes left" in text
    copy = tmp_path / "runs"
    shutil.copytree(smoke / "runs", copy)
    (expert,) = copy.glob("digits_smoke/train/deme-*-e1-*")
    shutil.rmtree(expert)
    code, text = run(["plan", str(SMOKE)], tmp_path)
    assert "deme train " in text
    assert "expert=1" in text
    assert "wait for others" in text
    page = tmp_path / "runs/digits_smoke/results/digits_smoke.md"
    complete = page.read_text()
    code, text = run(["table", str(SMOKE)], tmp_path)
    assert code == 0
    assert "kept runs/digits_smoke/results: the table there is complete, this one is not" in text
    assert page.read_text() == complete
    page.unlink()
    code, text = run(["table", str(SMOKE)], tmp_path)
    assert code == 0
    table = page.read_text()
    assert "| DeMe merged, grid search | -- |" in table
    assert "Not measured yet; `deme reproduce" in table
    assert "expert=1" in table.split("Not measured yet")[1]


def test_the_merged_model_is_the_weighted_sum_of_its_experts(smoke):
    suite = Suite.read(SMOKE, smoke / "runs")
    merge = next(n for n in suite.nodes if n.row == "deme_projected_uniform" and n.stage == "merge")
    experts = [e.run.path / "weights/ema/unet" for e in merge.inputs["experts"]]
    for file in ("diffusion_pytorch_model.safetensors", "projections.safetensors"):
        merged = tensors.TensorFile(merge.run.path / "weights/merged/unet" / file).read_all()
        one, two = (tensors.TensorFile(e / file).read_all() for e in experts)
        for name, value in merged.items():
            torch.testing.assert_close(value, (one[name] + two[name]) / 2, rtol=1e-5, atol=1e-7)
        assert any(not torch.equal(one[name], two[name]) for name in one)


def test_a_reweighted_row_trains_with_the_weights_that_the_search_found(smoke):
    suite = Suite.read(SMOKE, smoke / "runs")
    (trained,) = [n for n in suite.nodes if n.row == "reweighted_search" and n.stage == "train"]
    (search,) = trained.inputs["search"]
    assert suite.nodes.index(search) < suite.nodes.index(trained)
    best = json.loads((search.run.path / "best.json").read_text())["weights"]
    assert best != [0.5, 0.5]
    inside = [0.7 * 2 * w + 0.3 * sum(best) for w in best]  # Lambda(t) below and above T / 2
    found = json.loads((trained.run.path / "weighting.json").read_text())["mass"]
    assert found == pytest.approx([w / sum(inside) for w in inside])
    assert json.loads((trained.run.path / "cost.json").read_text()) == {
        "num_forward_passes": 4 * 16 * 3
    }
    cost = (search.run.path / "cost.json").read_bytes()
    told = json.loads(cost)
    assert (
        search.num_forward_passes == told["num_forward_passes"] > 0
    )  # what it took, not the most it could take
    (search.run.path / "cost.json").write_text(json.dumps({**told, "num_forward_passes": 7}))
    assert search.num_forward_passes == 7
    (search.run.path / "cost.json").write_bytes(cost)


def test_a_comparison_is_the_paired_difference_of_its_rows(smoke):
    suite = Suite.read(SMOKE, smoke / "runs")
    (compared,) = SuiteResults(suite).comparisons()
    one, other = (
        suite.evaluations(name)[0].run.path for name in ("deme_search", "reweighted_search")
    )
    assert compared.differences["recall_digits"] is None  # it has no bootstrap replicates
    for metric in ("fd_digits", "kid_digits", "loss"):
        difference = compared.differences[metric]
        found = [
            json.loads((p / "metrics.json").read_text())["metrics"][metric] for p in (one, other)
        ]
        values = [each["value"] for each in found]
        num_images = found[0].get("num_images", found[0]["n"])
        assert difference.value == pytest.approx(values[0] - values[1])
        pairs = [json.loads((p / "replicates.json").read_text())[metric] for p in (one, other)]
        spread = np.std(np.subtract(*pairs), ddof=1) * (num_images / (num_images - 1)) ** 0.5
        assert (difference.high - difference.low) / 2 == pytest.approx(
            stats.t.ppf(0.975, 19) * spread
        )
    page = (smoke / "runs/digits_smoke/results/digits_smoke.md").read_text()
    assert (
        f"| {compared.label} | {compared.other} | {compared.differences['fd_digits'].value:+.2f} ["
        in page
    )


def test_task_weights_are_logged_and_drawn(smoke):
    (run_dir,) = smoke.glob("runs/digits_smoke/train/ant_uncertainty-*")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["task_weight/2"] == pytest.approx(0.5 / 3)
    s = [line["log_variance/0"] for line in lines]
    assert s == sorted(s, reverse=True)  # the loss is far below its variance
    assert s[0] > s[-1]
    assert all(
        line["task_weight/0"] * 2 * 3 == pytest.approx(math.exp(-line["log_variance/0"]))
        for line in lines
    )
    code, text = run(["analyze", "figure=task_weights", f"run={run_dir}", "out=w.png"], smoke)
    assert code == 0, text
    assert (smoke / "w.png").stat().st_size > 10_000
    table = (smoke / "w.csv").read_text().splitlines()
    assert table[0] == "task,last weight"
    assert [line.rpartition(",")[0].strip('"') for line in table[1:]] == [
        f"t in {r}" for r in uniform(3, 1000)
    ]
    assert float(table[1].rpartition(",")[2]) == pytest.approx(lines[-1]["task_weight/0"], rel=1e-5)


def test_the_curves_of_all_weightings_are_drawn(tmp_path):
    code, text = run(["analyze", "figure=weightings"], tmp_path)
    assert code == 0, text
    assert (tmp_path / "weightings.png").stat().st_size > 30_000
    lines = [line.split(",") for line in (tmp_path / "weightings.csv").read_text().splitlines()]
    assert sorted(line[0] for line in lines[1:]) == options("weighting")
    (snr_plus_one,) = [line for line in lines if line[0] == "snr_plus_one"]
    assert snr_plus_one[1] == "1312"
    assert snr_plus_one[-1] == "98.29%"
    code, text = run(
        ["analyze", "figure.show=[p2]", "figure.normalize=true", "model=digits_unet"], tmp_path
    )
    assert code == 0, text
    assert (tmp_path / "weightings.csv").read_text().splitlines()[1].startswith("p2,1,")


def test_a_sweep_over_weightings_by_hand(tmp_path):
    words = [
        "train",
        "-m",
        "weighting=snr_plus_one,truncated_snr,min_snr,p2",
        *TINY_EXPERTS[2:],
        "num_steps=2",
    ]
    code, text = run(words, tmp_path)
    assert code == 0, text
    cells = [
        yaml.safe_load(f.read_text())["cell"]
        for f in tmp_path.glob("runs/scratch/train/*/config.yaml")
    ]
    assert sorted(cell["weighting"] for cell in cells) == [
        "min_snr",
        "p2",
        "snr_plus_one",
        "truncated_snr",
    ]
    assert text.count("t in [750, 1000) 98.3%") == 2  # SNR+1 and truncated SNR
    assert run(words, tmp_path)[1].count("done already") == 4


def test_the_log_says_where_the_weight_lies_as_drawn(tmp_path):
    code, text = run(
        ["train", "method=ant", "ranges=log_snr", *TINY_EXPERTS[2:], "num_steps=1"], tmp_path
    )
    assert code == 0, text
    assert "share of the loss weight, as timesteps are drawn: t in [0, 221) 25." in text
    (run_dir,) = tmp_path.glob("runs/scratch/train/*")
    found = json.loads((run_dir / "weighting.json").read_text())
    assert found["mass"] == pytest.approx([0.221, 0.301, 0.257, 0.221])
    assert found["mass_as_drawn"] == pytest.approx([0.25] * 4, abs=1e-4)


def test_ranges_by_gradient_are_measured_once_and_used(tmp_path):
    words = ["train", "method=ant", "balancing=pcgrad", "ranges=gradient", "ranges.num_ranges=3", "ranges.num_bins=5",
             "ranges.num_images=2048", *TINY_EXPERTS[2:]]  # fmt: skip
    code, text = run(words, tmp_path)
    assert code == 0, text
    assert text.count("measuring gradient affinity: 5 bins of timesteps, 2048 images each") == 1
    (run_dir,) = tmp_path.glob("runs/scratch/train/*")
    affinity = json.loads((run_dir / "affinity.json").read_text())
    assert len(affinity["cosines"]) == len(affinity["reliability"]) == 5
    assert "of 5 bins are reliable" in (run_dir / "log.txt").read_text()
    cost = json.loads((run_dir / "cost.json").read_text())["num_forward_passes"]
    assert cost == 3 * 12 * 16 + 3 * 5 * 2048
    ranges = json.loads((run_dir / "weighting.json").read_text())["ranges"]
    assert len(ranges) == 3
    assert all(int(r.strip("[)").split(", ")[0]) % 200 == 0 for r in ranges)
    code, text = run([*words, "ranges.num_images=8"], tmp_path)
    assert code == 4
    assert "the loss gradients are too noisy to find ranges" in text
    assert "type: ranges.num_images=32 or more" in text


def test_by_hand_the_same_runs_result(tmp_path):
    """train -m, merge, evaluate find each other by what they are called, and reproduce then finds them all done."""
    suite = yaml.safe_load(SMOKE.read_text())
    suite["rows"] = [
        row
        for row in suite["rows"]
        if row["name"] in ("deme_before_merge", "deme_search", "before")
    ]
    del suite["comparisons"]
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(suite))
    nodes = Suite.read(tmp_path / "s.yaml", tmp_path / "runs").nodes
    common = [
        w
        for w in next(n for n in nodes if n.stage == "train").overrides
        if not w.startswith("expert=")
    ]
    code, text = run(["train", "-m", *common, "expert=0,1"], tmp_path)
    assert code == 0, text
    assert text.count("trained runs/digits_smoke/train/deme-") == 2
    code, text = run(
        [
            "merge",
            "experiment=digits/merge",
            "suite=digits_smoke",
            "inputs.experts.cell.num_ranges=2",
        ],
        tmp_path,
    )
    assert code == 0, text
    assert "merged 2 models by " in text
    assert "weighted_sum with weights [0.5, 0.5]" in text
    for node in Suite.read(tmp_path / "s.yaml", tmp_path / "runs").nodes:
        if node.stage == "train":
            assert node.state == "done"


def test_an_expert_without_global_sampling_never_sees_other_timesteps(tmp_path):
    spy = """
from deme.models.denoiser import DenoisingModel
real = DenoisingModel.forward
def forward(self, x_t, t):
    if self.training:
        open('seen', 'a').writelines(f'{int(i)}\\n' for i in t)
    return real(self, x_t, t)
DenoisingModel.forward = forward
"""
    words = ["train", "expert=0", *TINY_EXPERTS, "ranges.num_ranges=4", "timesteps.probability=0"]
    code, text = run(words, tmp_path, spy)
    assert code == 0, text
    seen = [int(line) for line in (tmp_path / "seen").read_text().split()]
    assert len(seen) == 12 * 16
    assert max(seen) < 250
    code, text = run([*words, "timesteps.probability=0.5"], tmp_path, spy)
    assert max(int(line) for line in (tmp_path / "seen").read_text().split()) >= 250


def test_a_practitioners_own_folder_of_images_and_model(tmp_path):
    from PIL import Image

    from deme.data.digits import load_digits

    (tmp_path / "images").mkdir()
    for index, pixels in enumerate(load_digits().train.pixels[:60]):
        Image.fromarray(pixels[0].numpy()).resize((16, 12)).save(
            tmp_path / "images" / f"{index}.png"
        )
    shutil.copytree(REPOSITORY / "deme/assets/digits_base", tmp_path / "model")
    own = [
        "model=diffusers",
        "model.path=model",
        "data=image_folder",
        "data.path=images",  # its size and channels are the model's
    ]
    code, text = run(["train", "-m", *own, *TINY_EXPERTS, "expert=range(2)"], tmp_path)
    assert code == 0, text
    runs = ",".join(str(p) for p in sorted(tmp_path.glob("runs/scratch/train/*")))
    merged = done(
        ["merge", "model=diffusers", "model.path=model", f"inputs.experts=[{runs}]"], tmp_path
    )
    code, text = run(
        ["evaluate", *own, "metrics=loss", f"inputs.weights={merged}", *TINY_EVALUATE], tmp_path
    )
    assert code == 0, text
    assert "loss 0." in text
    code, text = run(
        ["sample", f"run={merged}", "num_images=4", "sampler.num_inference_steps=2"], tmp_path
    )
    assert code == 0, text
    assert (tmp_path / "grid.png").exists()
    assert (merged / "weights/merged" / UNET).exists()


def test_the_notebook_that_reads_a_table(smoke):
    place = {"DEME_SUITE": str(SMOKE), "DEME_RUNS": str(smoke / "runs")}
    notebook = executed("03_read_a_table", FOLDER, **place)
    assert kinds(notebook) == kinds(read("03_read_a_table"))
    states, table, evaluations, intervals, *_ = (data for _, _, data in outputs(notebook))
    suite = Suite.read(SMOKE, smoke / "runs")
    assert states["text/plain"] == "Counter({'done': 23})"
    page = (smoke / "runs/digits_smoke/results/digits_smoke.md").read_text()
    assert table["text/markdown"].strip() == page.strip()
    for metric in suite.settings.metrics:
        assert f"<th>{metric}</th>" in evaluations["text/html"]
    measured = [row for row in suite.settings.rows if row.evaluate is not None]
    made = [node for node in suite.nodes if node.stage == "evaluate"]
    assert evaluations["text/html"].count("<tr>") == len(made)  # the titles are in another
    assert all(row.label in intervals["text/html"] for row in measured)


def test_images_of_another_kind_train_with_damaged_ones_left_out_and_random_crops(tmp_path):
    from PIL import Image

    (tmp_path / "images").mkdir()
    for index in range(40):
        pixels = np.random.default_rng(index).integers(0, 256, (12, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index:02d}.webp")
    (tmp_path / "images" / "07.webp").write_bytes(b"")
    words = [
        "train",
        "data=image_folder",
        "data.path=images",
        "data.crop=random",
        "progress.num_workers=1",
        *TINY_TRAIN,
    ]
    code, text = run(words, tmp_path)
    assert code == 4, text
    assert (
        "07.webp is not an image that can be read: it is empty\nmove it away, or type: data.corrupt=skip"
        in text
    )
    assert "Traceback" not in text
    trained = done([*words, "data.corrupt=skip"], tmp_path)  # grey and 8 x 8, as the model
    assert (
        "1 of 40 images cannot be read and are left out: images/07.webp (it is empty)"
        in (trained / "log.txt").read_text()
    )
