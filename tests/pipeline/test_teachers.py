"""What teaches a training, from the command line: the base, an average, another model, routed experts; and copies."""

import json

import pytest
import torch
import yaml

from deme.models.loading import load_folder
from deme.runs import Suite, weights_folder
from deme.system import tensors
from tests.pipeline.program import TINY_EXPERTS, TINY_TRAIN, done, run, start
from tests.pipeline.test_resume import SLOW_STEP, results
from tests.pipeline.test_together import trained

FEW = ["num_steps=6", "progress.checkpoint_every=2"]


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """Two experts with projections, without consistency."""
    folder = tmp_path_factory.mktemp("experts")
    words = [*TINY_EXPERTS, "method.consistency_weight=0", "projection=blocks", "optimizer.lr=1e-2"]
    return [done(["train", f"expert={i}", "ema=none", *words, *FEW], folder) for i in (0, 1)]


def distilling(experts, *more):
    given = f"inputs.experts=[{','.join(map(str, experts))}]"
    return ["train", "method=distill", given, *TINY_TRAIN, *FEW, *more]


def folder(place):
    place.mkdir()
    return place


def killed(words, place):
    """Run until some steps are done, kill the program, and run the command again."""
    program = start(words, folder(place), SLOW_STEP)
    program.wait_for(
        lambda: any(p.read_text().count("\n") > 2 for p in place.glob("runs/*/*/*/metrics.jsonl"))
    )
    program.kill()
    code, text = run(words, place)
    assert code == 0, text
    assert "(from step " in text
    (run_dir,) = place.glob("runs/*/*/*")
    return run_dir


def weights(run_dir):
    return tensors.TensorFile(
        weights_folder(run_dir) / "unet" / "diffusion_pytorch_model.safetensors"
    ).read_all()


def curve(run_dir, name):
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows]


def test_a_student_is_distilled_from_experts_of_all_ranges(experts, tmp_path):
    words = distilling(experts, "num_steps=40", "optimizer.lr=2e-3")
    run_dir = done(words, tmp_path)
    losses = curve(run_dir, "loss/distillation")
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    about = json.loads((weights_folder(run_dir) / "deme.json").read_text())
    assert about["range"] is None
    assert load_folder(str(weights_folder(run_dir))).projections is None
    cost = json.loads((run_dir / "cost.json").read_text())["num_forward_passes"]
    assert cost == 40 * 16 * 4  # 3 of the student, 1 of an expert
    mass = json.loads((run_dir / "weighting.json").read_text())
    assert mass["ranges"] == ["[0, 500)", "[500, 1000)"]  # the experts', not those of ranges=
    assert "2 experts, of the ranges [0, 500), [500, 1000)" in (run_dir / "log.txt").read_text()
    named = json.loads((run_dir / "run.json").read_text())["inputs"]["experts"]
    assert list(named) == [str(each) for each in experts]


@pytest.mark.parametrize(
    "more",
    [
        ["accumulate=2", "method.lookahead=4"],
        pytest.param(["method.resident=one", "projection=blocks"], marks=pytest.mark.slow),
    ],
    ids=["ahead", "one"],
)
def test_a_killed_distillation_goes_on_bit_for_bit(experts, tmp_path, more):
    words = distilling(experts, "progress.checkpoint_every=1", *more)
    expected = results(done(words, folder(tmp_path / "a")))
    assert results(killed(words, tmp_path / "b")) == expected


@pytest.mark.slow
def test_two_processes_distill_what_one_distills(experts, tmp_path):
    words = distilling(experts)
    two, _ = trained(words, tmp_path / "two")
    one = done(words, folder(tmp_path / "one"))
    for key, value in weights(one).items():
        assert float((value - weights(two)[key]).norm()) <= 1e-5 * float(value.norm()), key


def test_experts_that_do_not_fit_are_refused(experts, tmp_path):
    for given, message in (
        (experts[:1], "must cover [0, 1000) exactly once"),
        ([experts[0], "asset:digits_base"], "names no timestep range"),
    ):
        code, text = run(distilling(given), tmp_path)
        assert (code, message in text) == (2, True), text
    code, text = run(
        distilling(experts, "model=captioned_digits_base", "data=captioned_digits"), tmp_path
    )
    assert code == 2, text
    assert "cannot teach this model" in text


def test_a_model_of_all_timesteps_is_held_near_the_base(tmp_path):
    """expert=null: no merge takes it for an expert."""
    words = ["train", *TINY_EXPERTS, *FEW]
    run_dir = done(words, tmp_path)
    assert min(curve(run_dir, "loss/consistency")[1:]) > 0
    assert json.loads((weights_folder(run_dir) / "deme.json").read_text())["range"] is None
    assert "expert=null trains one model over all timesteps" in (run_dir / "log.txt").read_text()
    plan = json.loads((run_dir / "weighting.json").read_text())
    assert plan["mass_as_drawn"] == pytest.approx([0.5, 0.5], abs=0.01)


def test_a_teacher_that_is_the_average_is_resumed_bit_for_bit(tmp_path):
    words = ["train", "expert=1", "method.teacher=ema", "projection=blocks", *TINY_EXPERTS]
    words += ["progress.checkpoint_every=1", *FEW[:1]]
    whole = done(words, folder(tmp_path / "a"))
    assert results(killed(words, tmp_path / "b")) == results(whole)
    to_base = done([w for w in words if w != "method.teacher=ema"], tmp_path)
    first, other = curve(whole, "loss/consistency"), curve(to_base, "loss/consistency")
    assert first[0] == other[0] == 0  # average, base and student are the same
    assert first[1] == 0 < other[1]  # the first update has decay 0: the average is the student
    assert first[3] != other[3]


def test_the_teacher_can_be_another_model_whose_content_counts(experts, tmp_path):
    words = ["train", "expert=0", *TINY_EXPERTS, *FEW]
    base = done(words, tmp_path)
    same = done([*words, "inputs.teacher=asset:digits_base"], tmp_path)
    other = done([*words, f"inputs.teacher={experts[0]}"], tmp_path)
    assert len({base.name, same.name, other.name}) == 3
    assert all(
        torch.equal(a, b)
        for a, b in zip(weights(base).values(), weights(same).values(), strict=True)
    )
    assert curve(other, "loss/consistency")[0] > 0
    raw = "is raw (not averaged): the consistency loss keeps the model near the noise"
    assert raw in (other / "log.txt").read_text()
    assert raw not in (base / "log.txt").read_text()  # an averaged base


def test_a_teacher_can_be_the_raw_weights_of_a_run(tmp_path):
    words = ["train", "expert=0", *TINY_EXPERTS, *FEW]
    teacher = done(["train", *TINY_TRAIN, *FEW, "method=finetune", "optimizer.lr=1e-2"], tmp_path)
    averaged = done([*words, f"inputs.teacher={teacher}"], tmp_path)
    raw = done([*words, f"inputs.teacher={teacher}", "run_weights=raw"], tmp_path)
    folder_of_raw = done([*words, f"inputs.teacher={teacher}/weights/raw"], tmp_path)
    losses = [curve(one, "loss/consistency")[0] for one in (raw, folder_of_raw, averaged)]
    assert losses[0] == losses[1] != losses[2]


def test_copies_see_other_images_and_other_noise(tmp_path):
    words = ["train", *TINY_TRAIN, "num_steps=2"]
    found = [
        done([*words, *more], tmp_path)
        for more in ([], ["copy=0"], ["copy=1"], ["copy=0", "seed=1"])
    ]
    assert len({path.name for path in found}) == 4
    assert found[1].name.startswith("finetune-")
    assert "-c0-s0-" in found[1].name
    losses = [tuple(curve(path, "loss")) for path in found]
    assert len(set(losses)) == 4


def test_a_row_of_a_suite_distills_the_experts_of_another(tmp_path):
    suite = {
        "suite": "small",
        "baseline": "before",
        "metrics": ["loss"],
        "finetune_seeds": [0],
        "sample_seeds": [100],
        "common": {
            "train": [*(word for word in TINY_TRAIN if "num_steps" not in word), "num_steps=2"],
            "evaluate": ["metrics=loss", "num_images=20", "metrics.replicates=5", "metrics.loss.draws=1"],
        },
        "rows": [
            {"name": "before", "label": "before", "evaluate": []},
            {"name": "distilled", "label": "distilled", "experts_of": "routed", "train": ["method=distill"], "evaluate": []},
            {"name": "routed", "label": "routed", "train": ["method=deme", "ranges.num_ranges=2"], "experts": [0, 1], "evaluate": []},
        ],
    }  # fmt: skip
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    nodes = Suite.read(tmp_path / "suite.yaml", tmp_path / "runs").nodes
    distilled = next(n for n in nodes if (n.row, n.stage) == ("distilled", "train"))
    experts = [n for n in nodes if (n.row, n.stage) == ("routed", "train")]
    assert distilled.inputs == {"experts": experts}
    assert distilled.num_forward_passes == 2 * 16 * 4
    code, text = run(["reproduce", "suite.yaml"], tmp_path)
    assert code == 0, text
    assert "| distilled |" in (tmp_path / "results" / "small.md").read_text()
    (run_dir,) = tmp_path.glob("runs/small/train/distill-*")
    assert len(json.loads((run_dir / "run.json").read_text())["inputs"]["experts"]) == 2
    (measured,) = tmp_path.glob("runs/small/evaluate/distilled-*")
    inputs = json.loads((measured / "run.json").read_text())["inputs"]["weights"]
    assert [name.endswith(run_dir.name) for name in inputs] == [True]
