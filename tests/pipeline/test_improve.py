"""`deme improve`: an under-trained model gets better by the best idea, a converged one is left alone, and a kill loses nothing."""

import json
import re
import signal
from pathlib import Path

import pytest
import yaml
from PIL import Image

from deme.commands import improve_budget
from deme.commands.improve import fitting
from deme.commands.improve_budget import Budget
from deme.commands.improve_work import Work
from deme.data.digits import pixels_and_labels, split
from deme.runs import ImproveSettings, RowSettings, Run, build, compose_stage, with_averages
from deme.runs.ideas import averages_of, idea_rows, ideas_of, passes_per_step
from deme.system import BadConfig
from tests.pipeline.program import TINY_TRAIN, done, run, start

SMALL = ["steps_per_expert=40", "num_ranges=2", "lr=1e-3", "projection=foldable", "search.num_images=100", "search.step=0.5",
         "num_images=300", "batch_size=50", "sampler.num_inference_steps=5", "passport.num_images=64", "metrics.replicates=50",
         "progress.log_every=20", "progress.preview.num_images=4", "progress.preview.num_inference_steps=2"]  # fmt: skip
TINY = [
    *SMALL,
    "steps_per_expert=4",
    "search.num_images=20",
    "search.step=1",
    "progress.log_every=2",
]
WITHOUT_STEPS = [word for word in SMALL if not word.startswith("steps_per_expert")]
IDEAS = ("average", "finetune", "soup", "merge", "distill")
BELOW = "runs/improve/improve/*"
# Scores on validation images in place of those that are measured, by the name of the run that scores.
SCORES = """
from deme.commands.improve_work import Work
measured = Work.score
Work.score = lambda work, name, model: {scores}.get(name) or measured(work, name, model)
"""

# The process kills itself as soon as the run of this name has begun.
KILLED_AT = """
import fnmatch, os, signal
from deme.system import files
write_json = files.write_json
def killed(path, *rest):
    write_json(path, *rest)
    if fnmatch.fnmatch(str(path), "*/{place}/status.json"):
        os.kill(os.getpid(), signal.SIGKILL)
files.write_json = killed
"""


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run with raw and averaged weights and three snapshots."""
    folder = tmp_path_factory.mktemp("base")
    words = ["train", "model=digits_unet", "method=pretrain", *TINY_TRAIN, "num_steps=150", "batch_size=64",
             "optimizer.lr=2e-3", "progress.checkpoint_every=50", "snapshots.every=50"]  # fmt: skip
    return done(words, folder)


def improve(model, *words):
    return ["improve", f"model={model}", "data=digits", "out=better", *words]


def evaluated_in(folder):
    return [path.name.split("-")[0] for path in folder.glob(f"{BELOW}/evaluate/*")]


def outcome(folder):
    (file,) = folder.glob("runs/improve/improve/*/outcome.json")
    return json.loads(file.read_text())


def settings_of(*words):
    config = compose_stage("improve", words)
    return build(ImproveSettings, with_averages(config, build(ImproveSettings, config)))


def test_an_undertrained_model_gets_better_and_goes_on_after_a_kill(pretrained, tmp_path):
    """The steps that fit into the time are kept: an hour is time for far more than the most steps."""
    words = improve(pretrained / "weights" / "ema", *WITHOUT_STEPS, "hours=1", "ideas=[merge]")
    few_steps = "import deme.commands.improve_budget as stage; stage.MAX_STEPS = 60"
    program = start(words, tmp_path, few_steps)
    program.wait_for(lambda: list(tmp_path.glob(f"{BELOW}/train/deme-*/weights/ema")))
    program.signal(signal.SIGKILL)
    program.wait()
    assert not (tmp_path / "better").exists()
    (file,) = tmp_path.glob("runs/improve/improve/*/plan.json")
    plan = json.loads(file.read_text())
    code, text = run(words, tmp_path, few_steps)
    assert code == 0, text
    found = outcome(tmp_path)
    assert json.loads(file.read_text()) == plan
    assert plan["num_steps"] == found["num_steps"] == 60
    assert 0 < plan["seconds_per_step"] < 60
    assert 0 < plan["seconds_for_the_rest"] < 3600
    assert (found["better"], found["idea"]) == (True, "merge")
    assert found["metrics"]["loss"]["after"] < found["metrics"]["loss"]["before"]
    assert "is better in loss: the 95% interval excludes 0" in text
    assert "metrics=own compares generated images" in text
    assert "the idea merge (merge weights [" in text
    assert sorted(evaluated_in(tmp_path)) == [
        "before",
        "merge",
    ]  # of one idea there is nothing to choose
    assert found["num_test_images"] == 359
    assert "1 seed: the verdict is about these weights" in text
    assert "training merge" not in text  # details are in the logs of the runs
    from diffusers import DDPMPipeline

    pipeline = DDPMPipeline.from_pretrained(tmp_path / "better")
    assert pipeline.unet.config["sample_size"] == 8
    assert not list((tmp_path / "better").rglob("projections*"))  # folded
    before = (tmp_path / "better" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    code, text = run(words, tmp_path)
    assert code == 0, text
    assert (
        tmp_path / "better" / "unet" / "diffusion_pytorch_model.safetensors"
    ).read_bytes() == before


@pytest.mark.slow
def test_all_ideas_from_raw_weights_killed_during_each(pretrained, tmp_path):
    """The best on validation images, and it alone, is measured on test images and written."""
    words = improve(pretrained / "weights" / "raw", *TINY)
    places = {
        "average": "merge/average-*",
        "finetune": "train/finetune-*",
        "soup": "train/soup-*-c1-*",
        "merge": "search/merge-*",
        "distill": "train/distill-*",
    }
    for place in places.values():
        code, text = run(words, tmp_path, KILLED_AT.format(place=place))
        assert code == -signal.SIGKILL, text
        assert list(tmp_path.glob(f"{BELOW}/{place}/status.json"))
        assert not list(tmp_path.glob("runs/improve/improve/*/outcome.json"))
    code, text = run(words, tmp_path)
    assert code == 0, text
    found = outcome(tmp_path)
    tried = {one["idea"]: one for one in found["tried"]}
    assert [*tried] == ["before", *IDEAS]
    assert all(one.get("left_out") is None for one in tried.values())
    measured = [idea for idea in IDEAS if tried[idea]["score"] is not None]
    assert {*IDEAS} - {*measured} <= {"merge"}  # whose best merge may be the base itself
    best = min(measured, key=lambda idea: tried[idea]["score"])
    assert found["idea"] == best
    scored = {"score_before", *(f"score_{idea}" for idea in measured)}
    assert sorted(evaluated_in(tmp_path)) == sorted(["before", best, *scored])
    # 4 steps of 50 images for each of two experts, three passes an image
    trained = 4 * 50 * 2 * 3
    search = 4 * 20 * 4  # merges, images, ranges of the loss
    costs = {idea: tried[idea]["num_forward_passes"] for idea in IDEAS}
    assert costs == {
        "average": 0,
        "finetune": trained,
        "soup": trained,
        "merge": trained + search,
        "distill": trained + trained // 3 * 4,
    }
    assert tried["finetune"]["seconds"] > 0
    assert (tmp_path / "better" / "unet").is_dir() == found["better"]
    assert "chosen" in text
    assert "shares of the training time: finetune 23%, soup 23%, experts 23%, distill 31%" in text


def test_the_choice_is_by_the_scores_on_validation_images(pretrained, tmp_path):
    """The idea of the lowest score is verified, although its model is the worst of all."""
    scores = {"before": 0.5, "average": 0.01, "finetune": 0.02}
    words = improve(pretrained / "weights" / "raw", *TINY, "ideas=[finetune,average]")
    code, text = run(words, tmp_path, SCORES.format(scores=scores))
    assert code == 0, text
    found = outcome(tmp_path)
    assert {one["idea"]: one["score"] for one in found["tried"]} == scores
    assert found["idea"] == "average"
    assert "(1 seed)" not in text  # nothing was finetuned
    assert not list(tmp_path.glob(f"{BELOW}/evaluate/finetune*"))
    source = pretrained / "weights" / "ema" / "unet" / "diffusion_pytorch_model.safetensors"
    (average,) = tmp_path.glob(f"{BELOW}/merge/average-*/weights/merged")
    assert (average / "unet" / source.name).read_bytes()[-10_000:] == source.read_bytes()[-10_000:]


@pytest.mark.slow
def test_an_idea_that_fits_its_training_images_alone_is_not_chosen(tmp_path):
    """40 images are learned by heart: the loss falls on them, and rises on all others."""
    pixels, labels = pixels_and_labels()
    (tmp_path / "images").mkdir()
    for number, image in enumerate(pixels[split(labels)[1][:200]]):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"images/{number:03}.png")
    base = "asset:digits_base"
    data = ["data=images", "data.held_out_fraction=0.8"]
    words = ["improve", f"model={base}", *data, f"inputs.average={base}", "ideas=[average,finetune]", "out=better",
             *SMALL, "steps_per_expert=150", "batch_size=40"]  # fmt: skip
    code, text = run(words, tmp_path)
    assert code == 0, text
    (finetuned,) = tmp_path.glob(f"{BELOW}/train/finetune-*")
    on_training_images = {}
    for name, model in {"average": base, "finetune": finetuned}.items():
        search = ["search", f"inputs.experts=[{model}]", f"model={base}", *data, "metrics=loss", "merge=linear",
                  "search=grid", "num_images=40", f"cell.method={name}"]  # fmt: skip
        best = done(search, tmp_path) / "best.json"
        on_training_images[name] = json.loads(best.read_text())["score"]
    assert on_training_images["finetune"] < on_training_images["average"]
    found = outcome(tmp_path)
    tried = {one["idea"]: one["score"] for one in found["tried"]}
    assert tried["finetune"] > tried["average"]
    assert found["idea"] == "average"
    assert found["num_test_images"] == 80
    assert "no idea is better than the base on validation images" in text
    assert not (tmp_path / "better").exists()


BROKEN = """
import torch
from deme.methods.finetune import Finetune
from deme.methods.distill import Distill
losses = Distill.losses
Distill.losses = lambda *args, **more: {k: v * torch.nan for k, v in losses(*args, **more).items()}
"""


def test_an_idea_that_makes_nan_is_left_out(pretrained, tmp_path):
    words = improve(pretrained / "weights" / "ema", *TINY, "ideas=[distill,finetune]")
    code, text = run(words, tmp_path, BROKEN)
    assert code == 0, text
    found = outcome(tmp_path)
    tried = {one["idea"]: one for one in found["tried"]}
    assert found["idea"] == "finetune"
    assert tried["distill"]["score"] is None
    assert "nan" in tried["distill"]["left_out"].lower()
    assert "the idea distill is left out: " in text
    assert "Traceback" not in text


ZERO = """
from deme.commands.improve_work import Work
trained = Work._trained
def without_experts(work, idea, num_steps):
    found = trained(work, idea, num_steps)
    work.merge_weights = [0.0, 0.0]
    return found
Work._trained = without_experts
"""


@pytest.mark.parametrize("ideas", ["merge", pytest.param("merge,finetune", marks=pytest.mark.slow)])
def test_a_merge_that_is_the_given_model_is_not_measured_again(ideas, pretrained, tmp_path):
    words = improve(pretrained / "weights" / "ema", *TINY, f"ideas=[{ideas}]")
    code, text = run(words, tmp_path, ZERO)
    assert code == 0, text
    found = outcome(tmp_path)
    tried = {one["idea"]: one for one in found["tried"]}
    assert tried["merge"]["score"] is None
    assert tried["merge"]["num_forward_passes"] > 0
    assert "the best merge is the base itself" in text
    assert found["idea"] == ("finetune" if "finetune" in ideas else "before")
    assert not {"merge", "score_merge"} & {*evaluated_in(tmp_path)}
    if ideas == "merge":
        assert not found["better"]
        assert not (tmp_path / "better").exists()
        assert found["metrics"]["loss"]["before"] == found["metrics"]["loss"]["after"]


def test_where_every_idea_fails_the_command_does(pretrained, tmp_path):
    words = improve(pretrained / "weights" / "ema", *TINY, "ideas=[distill]")
    code, text = run(words, tmp_path, BROKEN)
    assert code == 4, text
    assert "nan" in text.lower()
    assert not (tmp_path / "better").exists()


def test_experts_that_fail_are_tried_once(monkeypatch, in_tmp):
    """`merge` and `distill` both need them."""
    settings = settings_of("model=asset:digits_base", "data=digits", "out=better", *TINY)
    work = Work(settings, Run.planned(compose_stage("improve", ["model=asset:digits_base", "data=digits", "out=better", *TINY])))  # fmt: skip
    asked = []

    def fail(suite, row):
        asked.append(row)
        raise BadConfig("no experts")

    monkeypatch.setattr(work, "make_row", fail)
    found = [work.try_idea(idea, 40) for idea in ("merge", "distill", "soup")]
    assert asked == ["deme", "soup"]
    assert {one["left_out"] for one in found} == {"no experts"}


def test_an_idea_is_left_out_that_the_time_left_is_too_short_for(monkeypatch, in_tmp):
    """Unless it was begun, or its experts are trained already."""
    words = ["model=asset:digits_base", "data=digits", "out=better", "hours=1", "num_ranges=2"]
    settings = settings_of(*words)
    work = Work(settings, Run.planned(compose_stage("improve", words)))
    budget = Budget(work)
    budget.plan = {"seconds_per_step": 3.0, "seconds_for_the_rest": 10.0, "num_steps": 100}
    budget.verdict = 100.0
    ideas = ("finetune", "soup", "merge", "distill")
    # of 600, 600, 600 and 1,400 seconds
    assert [bool(budget.why_not(idea, 100)) for idea in ideas] == [False] * 4
    budget.before = 2500.0
    assert [bool(budget.why_not(idea, 100)) for idea in ideas] == [False, False, False, True]
    budget.before = 3200.0
    assert budget.why_not("soup", 100) == "it would take about 10 min, and only 5 min are left"
    assert budget.why_not("average", 100) is None
    monkeypatch.setattr(work, "has_experts", lambda steps: True)
    assert budget.why_not("merge", 100) is None
    row = next(
        node for node in work.suite(*idea_rows(settings, 100)["soup"]).nodes if node.copy == 1
    )
    row.path.mkdir(parents=True)
    (row.path / "status.json").write_text('{"state": "preempted"}')
    assert budget.why_not("soup", 100) is None
    with budget.timed("finetune", 100):
        budget.began -= 10.0
    budget.planned, budget.taken, budget.before = 600.0, 1200.0, 2450.0  # all takes twice as long
    assert budget.why_not("finetune", 100) == "it would take about 20 min, and only 17 min are left"
    budget.before = 9000.0
    assert "0 s are left" in budget.why_not("finetune", 100)


@pytest.mark.parametrize(
    ("search", "ideas", "left_out", "num_trials"),
    [
        (1, "finetune,soup,merge,distill", [], 3),
        (1000, "merge,finetune,soup,distill", ["merge"], 3),  # longer than the budget of 6 minutes
        (300, "merge,finetune", ["merge"], 3),  # only together with its training
        (1000, "merge", None, 0),
    ],
)
def test_an_idea_that_costs_more_than_the_budget_is_left_out(
    search, ideas, left_out, num_trials, monkeypatch, in_tmp
):
    words = ["model=asset:digits_base", "data=digits", "out=better", "hours=0.1", "num_ranges=2", f"ideas=[{ideas}]"]  # fmt: skip
    trials = []

    def trial(work, steps):
        trials.append(steps)
        return 1 + 0.1 * steps

    monkeypatch.setattr(improve_budget, "seconds_of", lambda run: 10.0)  # an evaluation
    monkeypatch.setattr(improve_budget, "_trial_seconds", trial)
    monkeypatch.setattr(improve_budget, "_search_seconds", lambda *args: float(search))
    work = Work(settings_of(*words), Run.planned(compose_stage("improve", words)))
    evaluations = [Path("a"), Path("b")]
    if left_out is None:
        with pytest.raises(BadConfig) as error:
            Budget(work).num_steps(evaluations)
        assert "type: a larger hours=<n>, at least 0." in str(error.value)
        assert trials == []
        return
    budget = Budget(work)
    steps = budget.num_steps(evaluations)
    assert len(trials) == num_trials
    assert steps >= improve_budget.MIN_STEPS
    assert list(budget.left_out) == left_out
    for why in budget.left_out.values():
        assert "6 min" in why  # the budget
        assert "search for merge weights" in why
        hours = float(re.search(r"type: hours=([\d.]+)", why)[1])
        assert 0.1 < hours < 1
        longer = settings_of(*words, f"hours={hours}")
        again = Budget(Work(longer, Run.planned(compose_stage("improve", [*words, f"hours={hours}"]))))  # fmt: skip
        assert again.num_steps(evaluations) >= improve_budget.MIN_STEPS
        assert again.left_out == {}
    resumed = Budget(work)
    assert (resumed.num_steps(evaluations), resumed.left_out) == (steps, budget.left_out)


@pytest.mark.slow
def test_the_others_go_on_without_an_idea_that_costs_too_much(pretrained, tmp_path):
    patch = """
import deme.commands.improve_budget as stage
stage.MAX_STEPS = 20
stage._search_seconds = lambda *args: 5000.0
"""
    words = improve(pretrained / "weights" / "ema", *WITHOUT_STEPS, "hours=1", "ideas=[merge,finetune]")  # fmt: skip
    code, text = run(words, tmp_path, patch)
    assert code == 0, text
    tried = {one["idea"]: one for one in outcome(tmp_path)["tried"]}
    assert "type: hours=" in tried["merge"]["left_out"]
    assert "left_out" not in tried["finetune"]
    assert text.count("the idea merge is left out: ") == 1
    assert not list(tmp_path.glob(f"{BELOW}/search/*"))


def test_one_hour_is_the_time_unless_it_is_given(in_tmp):
    own = ["model=asset:digits_base", "data=digits", "out=better"]
    hours = [
        settings_of(*own, *words).budget_hours
        for words in ([], ["hours=8"], ["steps_per_expert=9"])
    ]
    assert hours == [1, 8, None]


def test_where_the_average_of_a_model_is(pretrained, in_tmp):
    weights = pretrained / "weights"
    assert averages_of({"path": str(weights / "raw")}) == {"average": str(weights / "ema")}
    for averaged in (weights / "ema", pretrained, weights / "snapshots" / "00000050", Path("asset:digits_base")):  # fmt: skip
        assert averages_of({"path": str(averaged)}) == {}
    own = [f"model={weights}/raw", "data=digits", "out=better"]
    assert settings_of(*own).inputs == {"average": str(weights / "ema"), "snapshots_of": None}
    given = settings_of(*own, f"inputs.snapshots_of={pretrained}")
    assert given.inputs == {"average": None, "snapshots_of": str(pretrained)}
    assert [*ideas_of(given)] == [*IDEAS]
    assert [*ideas_of(settings_of(*own, "ideas=[soup,finetune]", "num_ranges=1"))] == ["finetune"]


def test_a_run_without_an_average_has_its_snapshots(tmp_path):
    run_dir = done(
        ["train", "model=digits_unet", "method=pretrain", *TINY_TRAIN, "ema=none", "snapshots.every=6"],
        tmp_path,
    )  # fmt: skip
    assert averages_of({"path": str(run_dir)}) == {"snapshots_of": str(run_dir)}
    code, text = run(improve(run_dir, *TINY, "ideas=[average]"), tmp_path)
    assert code == 0, text
    assert outcome(tmp_path)["idea"] == "average"
    assert outcome(tmp_path)["num_steps"] == 0
    (about,) = tmp_path.glob(f"{BELOW}/average/*/weights/averaged/deme.json")
    assert json.loads(about.read_text())["average"] == "mean of 2 snapshots, steps 6 to 12"


def test_every_idea_has_the_steps_of_all_experts(in_tmp):
    own = ["model=asset:digits_base", "data=digits", "out=better", "num_ranges=3"]
    settings = settings_of(*own)

    def steps(row: RowSettings) -> int:
        (number,) = (int(w.split("=")[1]) for w in row.train or () if w.startswith("num_steps="))
        return number * (row.copies or len(row.experts or [0]))

    for rows in idea_rows(settings, 70).values():
        assert {steps(row) for row in rows if row.train} == {210}
    shares = passes_per_step(settings_of(*own, "consistency_weight=1"))
    assert shares == {"finetune": 3, "soup": 3, "experts": 4, "distill": 4}
    assert passes_per_step(settings_of(*own, "ideas=[merge]")) == {"experts": 3}


def test_a_model_that_no_idea_improves_is_not_replaced(tmp_path):
    words = improve("asset:digits_base", "metrics=digits", *SMALL, "lr=5e-3", "ideas=[merge,soup]")
    code, text = run([*words, "search.step=1.0", "sample_seeds=[0]"], tmp_path)
    assert code == 0, text
    found = outcome(tmp_path)
    assert found["metric"] == "fd_digits"
    assert not found["better"]
    assert found["metrics"]["fd_digits"]["verdict"] != "better"
    assert not (tmp_path / "better").exists()
    assert "is not better in fd_digits by its 95% interval" in text
    assert "would have been detected with 80% power" in text
    assert "the folder better was not written" in text


def test_a_folder_that_would_be_refused_in_the_end_is_refused_at_once(tmp_path):
    (tmp_path / "better").mkdir()
    (tmp_path / "better" / "deme.json").write_text("{}")
    code, text = run(improve("asset:digits_base", *SMALL), tmp_path)
    assert code == 2, text
    assert "out=better" in text
    assert "type: out=" in text
    assert not (tmp_path / "runs").exists()


def test_time_that_is_too_short_is_said_before_training(tmp_path):
    code, text = run(improve("asset:digits_base", *WITHOUT_STEPS, "hours=0.0001"), tmp_path)
    assert code == 2, text
    assert "deme: hours=0.0001 " in text
    assert "type: a larger hours=<n>, at least " in text
    assert not list(tmp_path.glob(f"{BELOW}/train/deme-*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hours=1", "steps_per_expert=10"], "type: one of hours=<n>, steps_per_expert=<n>"),
        (["hours=-1"], "hours must be "),
        (["sample_seeds=0"], "sample_seeds must be "),
        (["steps_per_expert=0"], "steps_per_expert must be "),
        (["ideas=[finetune,sooup]"], "sooup"),
        (["ideas=[soup,soup]"], "ideas must be a list of different values"),
        (["ideas=[]"], "ideas must be "),
        (["ideas=soup"], "ideas must be "),
        (["ideas=null"], "ideas must be "),
        (["ideas=[average]"], "type: inputs.average=<model>, or further ideas"),
        (["ideas=[soup]", "num_ranges=1"], "nothing to try with num_ranges=1"),
        (["ideas=[soup]", "inputs.average=asset:digits_base"], "inputs.average is used only by the idea average"),
        (["inputs.average=a", "inputs.snapshots_of=b"], "type: one of them"),
        (["consistency_weight=-1"], "consistency_weight must be "),
    ],
)  # fmt: skip
def test_slips(words, message, tmp_path):
    code, text = run(improve("asset:digits_base", *words), tmp_path)
    assert code == 2, text
    assert "deme: " in text
    assert message in text
    assert "Traceback" not in text
    assert not (tmp_path / "runs").exists()


def test_a_flow_matching_model_gets_a_lora_or_nothing(tmp_path):
    base = done(["train", "model=digits_dit", "data=labelled_digits", "weighting=constant_native", *TINY_TRAIN,
                 "num_steps=100", "optimizer.lr=2e-3"], tmp_path)  # fmt: skip
    small = [word for word in TINY if not word.startswith(("projection", "sampler"))]
    words = ["improve", f"model={base}/weights/ema", "data=labelled_digits", "out=better", *small, "steps_per_expert=60",
             "adapter=lora", "adapter.rank=4", "lr=1e-2", "sampler.num_inference_steps=3"]  # fmt: skip
    code, text = run(words, tmp_path)
    assert code == 0, text
    assert "weighting=constant_native projection=none" in text
    assert sorted(p.name for p in (tmp_path / "better").iterdir()) == [
        "README.md", "adapter_config.json", "deme.json", "pytorch_lora_weights.safetensors"]  # fmt: skip
    found = outcome(tmp_path)
    assert {each["idea"] for each in found["tried"]} == {"before", "finetune", "merge", "distill"}
    (trained,) = tmp_path.glob(f"{BELOW}/train/finetune-*")
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["adapter"]["rank"] == 4
    assert config["weighting"]["_target_"].endswith("ConstantNative")
    again = run(words, tmp_path)[1]
    assert "chosen" in again
    code, text = run([*words[:-1], "projection=foldable"], tmp_path)
    assert (code, "type: projection=none" in text) == (2, True), text


def test_options_that_fit_the_model_are_chosen_unless_others_are_typed(tmp_path):
    def chosen(model, *words):
        config = compose_stage("improve", [f"model={model}", "data=digits", "out=x", *words])
        found = fitting(config)
        return {group: found[group] for group in ("sampler", "weighting", "projection")}

    flow = chosen("asset:digits_flow", "metrics=labelled_digits")
    assert flow["sampler"]["_target_"].endswith("FlowEuler")
    assert flow["weighting"]["_target_"].endswith("ConstantNative")
    assert flow["projection"]["placement"] is None
    steps = chosen("asset:digits_flow", "metrics=labelled_digits", "sampler.num_inference_steps=7")
    assert steps["sampler"]["num_inference_steps"] == 7
    heun = chosen("asset:digits_flow", "metrics=labelled_digits", "sampler=flow_heun", "weighting=min_snr")  # fmt: skip
    assert heun["sampler"]["_target_"].endswith("FlowHeun")
    assert heun["weighting"]["_target_"].endswith("MinSNR")
    latent = chosen("asset:captioned_digits", "metrics=digits")
    assert latent["sampler"]["clip_sample"] is False
    usual = chosen("asset:digits_base", "metrics=digits")
    assert usual == chosen("asset:digits_base", "sampler=ddim", "weighting=constant", "projection=foldable")  # fmt: skip
    assert chosen("asset:digits_base", "adapter=lora")["projection"]["placement"] is None
