"""Flow matching and class-conditional transformers from the command line: every method, merge, metric and search."""

import json

import pytest
import torch

from deme.diffusion import FlowSchedule
from deme.models.families.dit import DiTModel
from deme.models.loading import load_folder
from deme.runs import weights_folder
from tests.pipeline.program import TINY_TRAIN, done, run
from tests.pipeline.program import start as begin
from tests.pipeline.test_resume import SLOW_STEP

BASES = {
    "unet": ["model=digits_flow_unet", "data=digits"],
    "transformer": ["model=digits_dit", "data=labelled_digits"],
}
FLOW = ["weighting=constant_native", *TINY_TRAIN]
EVALUATE = ["sampler=flow_euler", "num_images=20", "batch_size=10", "shard_size=10", "sampler.num_inference_steps=4",
            "metrics=digits", "metrics.replicates=5", "metrics.loss.draws=2"]  # fmt: skip
PROMPTS = ["prompts=captions", "guidance_scale=2.0"]
METHODS = {
    "min_snr": ["weighting=min_snr"],
    "p2": ["weighting=p2"],
    "snr_plus_one": ["weighting=snr_plus_one"],
    "ant_nash_mtl": ["method=ant", "balancing=nash_mtl"],
    "ant_uncertainty": ["method=ant", "balancing=uncertainty"],
    "reweighted": ["method=reweighted"],
    "density": ["timestep_density=mode"],
    "by_gradient": ["method=deme", "ranges=gradient", "ranges.num_bins=4", "ranges.num_images=64", "expert=1"],
    "by_sigma": ["method=deme", "ranges=sigma", "expert=3", "timestep_density=logit_normal"],
    "by_levels": ["method=deme", "ranges=levels", "ranges.levels=[0,0.875,1]", "expert=1"],
    "equal_sampler_steps": ["method=deme", "ranges=sampler", "expert=0"],
    "by_log_snr": ["method=deme", "ranges=log_snr", "expert=0"],
}  # fmt: skip


def data_of(kind):
    return BASES[kind][1]


@pytest.fixture(scope="module", params=list(BASES))
def base(request, tmp_path_factory):
    """A flow-matching model after a few steps: its kind, its run, and the folder that commands run in."""
    place = tmp_path_factory.mktemp(request.param)
    words = [*BASES[request.param], *FLOW, "num_steps=40", "optimizer.lr=2e-3"]
    return request.param, done(["train", *words], place), place


@pytest.fixture(scope="module")
def experts(base):
    kind, run_dir, place = base
    model = [
        f"model.path={weights_folder(run_dir)}",
        "model=diffusers",
        data_of(kind),
        "passport.contradicted=train",
    ]
    words = ["method=deme", "ranges.num_ranges=2", *model, *FLOW]
    return [done(["train", f"expert={i}", *words], place) for i in (0, 1)]


def given(experts):
    return f"inputs.experts=[{','.join(map(str, experts))}]"


def start(base):
    kind, run_dir, _ = base
    return [
        "model=diffusers",
        f"model.path={weights_folder(run_dir)}",
        data_of(kind),
        "passport.contradicted=train",
    ]


def metrics(run_dir):
    return json.loads((run_dir / "metrics.json").read_text())["metrics"]


def test_what_is_written_is_a_folder_of_diffusers(base):
    kind, run_dir, _ = base
    place = weights_folder(run_dir)
    index = json.loads((place / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    assert kind in index
    model = load_folder(str(place))
    assert isinstance(model.schedule, FlowSchedule)
    assert model.prediction_type == "flow_prediction"
    assert isinstance(model, DiTModel) == (kind == "transformer")
    stock = type(model.network).from_pretrained(place / kind)
    x_t, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 499, 999])
    condition = model.condition(["3", "", "9"])
    with torch.no_grad():
        found = stock(x_t, timestep=(t + 1.0), **condition).sample
        torch.testing.assert_close(model(x_t, t, condition), found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(base, method):
    if base[0] == "transformer" and method in ("p2", "snr_plus_one", "by_log_snr", "density"):
        pytest.skip("once is enough: nothing of it depends on the network")
    words = [*start(base), *FLOW, *METHODS[method], "num_steps=3"]
    run_dir = done(["train", *words], base[2])
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["loss"] < 1e6 or method.startswith("ant") for row in rows)


def test_experts_are_routed_merged_searched_and_distilled(base, experts):
    kind, _, place = base
    prompts = PROMPTS if kind == "transformer" else []
    routed = done(
        ["evaluate", "source=experts", given(experts), data_of(kind), *EVALUATE, *prompts], place
    )
    merged = done(["merge", given(experts), *start(base)[:2]], place)
    found = done(
        ["evaluate", f"inputs.weights={merged}", data_of(kind), *EVALUATE, *prompts], place
    )
    assert {*metrics(routed)} == {*metrics(found)} >= {"fd_digits", "loss"}
    search = [
        "search",
        given(experts),
        *start(base)[:3],
        "search=grid",
        "search.step=0.5",
        "objective=loss",
    ]
    code, text = run(search, place)
    assert code == 0, text
    distilled = ["train", "method=distill", given(experts), *start(base), *FLOW, "num_steps=3"]
    assert (
        load_folder(str(weights_folder(done(distilled, place)))).prediction_type
        == "flow_prediction"
    )


def test_a_run_that_is_stopped_and_resumed_is_the_undisturbed_one(base, tmp_path):
    words = ["train", *start(base), *FLOW, "num_steps=6", "progress.checkpoint_every=1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    undisturbed = done(words, whole)
    program = begin(words, killed, SLOW_STEP)
    program.wait_for(
        lambda: any(p.read_text().count("\n") > 2 for p in killed.glob("runs/*/*/*/metrics.jsonl"))
    )
    program.kill()
    again = done(words, killed)
    one, other = (load_folder(str(weights_folder(r))).state_dict() for r in (undisturbed, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_class_that_the_model_does_not_have_is_one_message(base, tmp_path):
    kind, run_dir, place = base
    if kind != "transformer":
        code, text = run(["sample", f"run={run_dir}", "num_images=2", "sampler=ddim"], place)
        assert code == 2
        assert "type: sampler=flow_euler" in text
        return
    prompts = tmp_path / "classes.txt"
    prompts.write_text("3\neleven\n")
    words = ["sample", f"run={run_dir}", "sampler=flow_euler", f"prompts.path={prompts}", "prompts=coco", "prompts.column=null",
             "prompts.seed_column=null", "num_images=2"]  # fmt: skip
    code, text = run(words, place)
    assert code == 2
    assert "'eleven' is not a class of this model, which has the classes 0 to 9" in text
