"""One clear message and the right exit code for every slip, literally; never a traceback, never a half-written file."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from deme.cli.app import COMMANDS, STAGES, main
from deme.models.layout import UNET
from deme.system import tensors
from tests.pipeline.program import TINY_EVALUATE, TINY_EXPERTS, TINY_TRAIN, done, run

DIGITS = Path(__file__).parents[2] / "experiments/digits/suite.yaml"
WEIGHTS = f"weights/ema/{UNET}"


def fails(words, folder, code, *parts, patch=""):
    found, text = run(words, folder, patch)
    assert found == code, text
    message = text[text.index("deme: ") :]
    for part in parts:
        assert part in message
    assert "Traceback" not in text
    assert "Error executing job" not in text
    assert len(message.strip().splitlines()) <= 3
    return text


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["trian"], ["trian", "did you mean 'train'?", ", ".join([*STAGES, *COMMANDS])]),
        (["train", "--cgf", "job"], ["--cgf", "did you mean '--cfg'?"]),
        (["train", "data=digitz"], ["data=digitz", "did you mean 'digits'?", "none"]),
        (["train", "experiment=digits/demee"], ["experiment", "did you mean 'deme'?", "evaluate"]),
        (["train", "experimnt=digits/deme"], ["experimnt", "did you mean 'experiment'?"]),
        (["train", "optimizer.lrr=1"], ["optimizer.lrr", "did you mean 'optimizer.lr'?", "fused"]),
        (["train", "model.ema=true"], ["model.ema", "type: model=<option> model.ema=<value>"]),
        (["average", "ema_length=0.15"], ["type: average=power average.ema_length=<value>"]),
        (["train", "save_images=zip"], ["save_images", "keys of `deme train`"]),  # of an experiment
        (["train", "seed=[1"], ["seed=[1"]),
        (["train", "gradient_clip=-1"], ["gradient_clip", "got -1"]),
        (["train", "-m", "hydra/launcher=nowhere_at_all"], ["hydra/launcher=nowhere_at_all", "known ones: basic, joblib"]),
        (["train", "progress.preview=null"], ["progress.preview", "got None"]),
        (["train", "passport=null"], ["passport"]),
        (["train", "cell=null"], ["cell"]),
        (["train", "suite=null"], ["suite", "got None"]),
        (["train", "compute.precision=[a]"], ["compute.precision", "got ['a']"]),
        (["train", "ema.power=abc"], ["ema.power", "got 'abc'"]),
        (["train", "ema.max_decay=1.5"], ["ema.max_decay", "got 1.5"]),
        (["train", "optimizer.betas=[0.9]"], ["optimizer"]),
        (["train", "method=deme", "expert=1.0"], ["expert", "got 1.0"]),
        (["merge", "inputs.experts=[asset:digits_base]", "weights_by_name=0.5"], ["weights_by_name"]),
        (["evaluate", "metrics.loss.num_ranges=5000"], ["num_ranges"]),
        (["export", "run=asset:digits_base", "out=null"], ["out", "got None"]),
        (["train", "num_steps=abc"], ["num_steps", "got 'abc'"]),
        (["train", "batch_size=0"], ["batch_size", "got 0"]),
        (["train", "batch_size=1000000000"], ["batch_size", "at most 1,048,576"]),
        (["train", "method=deme", "expert=7"], ["expert=7", "0..3"]),
        (["train", "~optimizer"], ["optimizer must be given; allowed: adamw", "type: optimizer="]),
        (["train", "model=null"], ["model takes the name of an option", "digits_base"]),
        (["train", "learning_rate=1e-4"], ["got 1e-4", "cosine", "type: optimizer.lr=1e-4"]),
        (["train", "ema=0.99"], ["ema takes the name of an option, got 0.99", "type: ema=<option>"]),
        (["train", "steps=5"], ["did you mean 'num_steps'"]),
        (["improve", "model=digits_base", "data=digits", "out=x", "learning_rate=1e-4"], ["type: lr=1e-4"]),
        (["evaluate", "learning_rate=1e-4"], ["learning_rate is no group of `deme evaluate`, but of deme train"]),
        (["train", "optimizer=null"], ["type: optimizer=<option>"]),
        (["train", "~data=3"], ["data takes the name of an option, got 3"]),
        (["train", "+data=3"], ["data takes the name of an option, got 3"]),
        (["train", "foo"], ["'foo' is not <key>=<value>"]),
        (["train", "="], ["'=' is not <key>=<value>"]),
        (["train", "data=image_folder"], ["data", "type: data=<folder>"]),
        (["train", "data=image_folder", "data.path=.", "data.size=0"], ["data.size", "got 0"]),
        (["train", "data=cifar10", "data.download=1"], ["data.download", "got 1"]),
        (["train", "data=cifar10", "data.held_out=train"], ["data.held_out", "got 'train'"]),
        (["stats", "data=image_folder", "data.path=.", "metrics=digits"], [".", "type: data.size=<value> data.channels=<value>"]),
        (["train", "optimizer.lr=-1"], ["-1"]),
        (["train", "progress.checkpoint_every=0"], ["progress.checkpoint_every", "got 0"]),
        (["evaluate", "metrics.replicates=1"], ["metrics.replicates", "got 1"]),
        (["train", "compute.precision=17"], ["compute.precision", "got 17"]),
        (["train", "compute.accelerator=tpu"], ["compute.accelerator", "got 'tpu'"]),
        (["train", "method=deme", "method.teacher=mean"], ["must be base or ema", "type: inputs.teacher=<run"]),
        (["train", "method=deme", "expert=0", "method.teacher=ema", "ema=none"], ["method.teacher=ema", "type: ema=warmup"]),
        (["train", "method=deme", "method.teacher=ema", "inputs.teacher=asset:digits_base"], ["two teachers"]),
        (["train", "inputs.teacher=asset:digits_base"], ["inputs.teacher", "type: method=deme"]),
        (["train", "method=deme", "expert=0", "inputs.teacher=asset:captioned_digits"], ["cannot teach this model", "in_channels=4 (the model: 1)"]),
        (["train", "method=deme", "expert=0", "method.consistency_weight=[1,0]"], ["one for each of the 4 ranges; got 2"]),
        (["train", "method=deme", "expert=0", "method.consistency_weight=[1,a,1,1]"], ["method.consistency_weight", "a number"]),
        (["train", "method=deme", "ranges=gradient"], ["does not use ranges"]),
        (["train", "copy=-1"], ["copy", "got -1"]),
        (["train", "method=distill"], ["method=distill", "type: inputs.experts=["]),
        (["train", "method=distill", "expert=1", "inputs.experts=[asset:digits_base]"], ["expert=1", "type: expert=null"]),
        (["train", "method=distill", "inputs.experts=[asset:digits_base]"], ["names no timestep range", "type: deme train method=deme"]),
        (["train", "method=distill", "inputs.experts=[asset:digits_base]", "ranges=gradient"], ["ranges=gradient", "type: ranges=uniform"]),
        (["train", "method=distill", "method.resident=none"], ["method.resident"]),
        (["train", "method=distill", "method.lookahead=0"], ["method.lookahead", "got 0"]),
        (["train", "inputs.experts=[asset:digits_base]"], ["inputs.experts", "type: method=distill"]),
        (["merge", "inputs.experts=[asset:digits_base]", "merge=ties", "+merge.sum=2"], ["merge=ties", "merge.sum=2"]),
        (["merge", "inputs.experts=[asset:digits_base]", "merge.weights=[0]", "merge.sum=2"], ["merge.sum=2", "the sum 0"]),
        (["search", "inputs.experts=[asset:digits_base]", "merge.sum=2"], ["merge.sum=2", "search=sum"]),
        (["search", "inputs.experts=[asset:digits_base]", "search=sum", "merge=ties"], ["merge=ties", "type: merge=weighted_sum"]),
        (["search", "inputs.experts=[asset:digits_base]", "search=sum", "search.proportions=[1,-1]"], ["must not sum to 0"]),
        (["search", "inputs.experts=[asset:digits_base]", "search=sum", "search.proportions=equal"], ["uniform or a list"]),
        (["train", "method=deme", "expert=4"], ["expert=4"]),
        (["train", "expert=0", "ranges.num_ranges=1001"], ["num_ranges", "got 1001"]),
        (["train", "expert=0", "ranges=boundaries", "ranges.boundaries=[0,250,900]"], ["boundaries"]),
        (["train", "expert=0", "timesteps=probabilistic", "timesteps.probability=30"], ["probability", "got 30"]),
        (["train", "ranges=snr"], ["ranges=snr", "did you mean 'log_snr'?", "uniform"]),
        (["train", "ranges=log_snr", "ranges.num_ranges=1001"], ["num_ranges", "got 1001"]),
        (["train", "method=ant", "ranges=gradient", "ranges.num_bins=3"], ["num_bins", "got 4 and 3"]),
        (["train", "method=ant", "balancing=none"], ["balancing", "type: balancing=uncertainty"]),
        (["train", "method=ant", "timesteps=uniform"], ["timesteps", "type: timesteps=stratified"]),
        (["train", "method=ant", "batch_size=3"], ["batch_size", "type: batch_size=4 or more"]),
        (["train", "method=ant", "balancing=nash"], ["balancing=nash", "did you mean 'nash_mtl'?", "uncertainty"]),
        (["train", "method=ant", "balancing=nash_mtl", "balancing.refresh_every=2.5"], ["balancing.refresh_every", "got 2.5"]),
        (["train", "method=ant", "balancing.lr=0"], ["balancing.lr", "got 0"]),
        (["train", "method=ant", "balancing=pcgrad", "compute.precision=16-mixed"], ["compute.precision=16-mixed"]),
        (["train", "method=ant", "balancing=nash_mtl", "compute.compile=true"], ["compute.compile"]),
        (["train", "compute.precision=16-mixed"], ["compute.precision=16-mixed", "type: compute.precision=bf16-mixed"]),
        (["train", "compute.channels_last=1"], ["compute.channels_last", "got 1"]),
        (["train", "compute.gradient_checkpointing=yes_please"], ["compute.gradient_checkpointing", "got 'yes_please'"]),
        (["train", "optimizer.fused=maybe"], ["optimizer.fused", "got 'maybe'"]),
        (["train", "balancing=pcgrad"], ["balancing", "type: method=ant, or balancing=none"]),
        (["train", "method=deme", "expert=0", "timesteps=stratified"], ["timesteps"]),
        (["train", "weighting=min_snr", "weighting.gamma=0"], ["gamma", "got 0"]),
        (["train", "weighting=minsnr"], ["weighting=minsnr", "did you mean 'min_snr'?"]),
        (["train", "loss_weight.max=0"], ["0", "got 0"]),
        (["train", "loss_weight.max=a"], ["a", "got 'a'"]),
        (["train", "loss_weight.normalize=mean1"], ["normalize", "got 'mean1'"]),
        (["train", "method=reweighted", "method.merge_weights=[0.5,0.5]"], ["method.merge_weights"]),
        (["train", "inputs.search=asset:digits_base"], ["inputs.search"]),
        (["train", "method=reweighted", "inputs.search=5"], ["5", "got 5"]),
        (["train", "method=reweighted", "inputs.search=asset:digits_base", "method.merge_weights=[1,0,0,0]"], ["method.merge_weights"]),
        (["train", "method=reweighted", "method.merge_weights=[0,0,0,0]"], ["[0, 0, 0, 0]"]),
        (["train", "method=reweighted", "method.merge_weights=0.5"], ["method.merge_weights", "got 0.5"]),
        (["train", "method=reweighted", "method.probability=a"], ["method.probability", "got 'a'"]),
        (["train", "method=reweighted", "expert=1"], ["method"]),
        (["train", "method=reweighted", "timesteps=stratified"], ["timesteps"]),
        (["train", "+method.foo=1"], ["foo", "timesteps"]),
        (["train", "method=ant", "+balancing.foo=1"], ["foo", "lr"]),
        (["train", "weighting=p2", "weighting.k=a"], ["k"]),
        (["train", "balancing=null"], ["null", "got null"]),
        (["train", "loss_weight=5"], ["loss_weight", "got 5"]),
        (["train", "ranges=gradient"], ["ranges=gradient"]),
        (["train", "expert=0", "ranges=boundaries", "ranges.boundaries=[0,500.5,1000]"], ["boundaries"]),
        (["analyze", "figure.show=minsnr"], ["minsnr", "did you mean 'min_snr'?"]),
        (["analyze", "figure.max_weight=-1"], ["-1", "got -1"]),
        (["analyze", "run=asset:digits_base"], ["run"]),
        (["analyze", "out=5"], ["out", "got 5"]),
        (["analyze", "figure=task_weights", "run=5"], ["run", "got 5"]),
        (["analyze", "out=w.pdf"], ["out", "got w.pdf"]),
        (["analyze", "figure=weighting"], ["figure=weighting", "did you mean 'weightings'?", "weightings"]),
        (["analyze", "figure.show=[minsnr]"], ["unknown weighting 'minsnr'; did you mean 'min_snr'?", "did you mean 'min_snr'?"]),
        (["analyze", "figure=task_weights"], ["figure", "type: run="]),
        (["analyze", "figure=task_weights", "run=asset:digits_base"], ["run"]),
        (["merge"], ["inputs.experts must be given"]),
        (["evaluate", "source=all"], ["source", "got 'all'"]),
        (["evaluate", "sampler.num_inference_steps=1001"], ["sampler.num_inference_steps=1001"]),
        (["sample", "run=asset:digits_base", "out=grid.jpg"], ["out", "got grid.jpg"]),
        (["plan"], ["plan", "got 0", "type: deme plan experiments/digits"]),
        (["table", "x", "run=3"], ["run", "did you mean 'runs'?", "jobs"]),
    ],
)  # fmt: skip
def test_bad_configuration_is_exit_2(words, parts, tmp_path):
    fails(words, tmp_path, 2, *parts)
    assert not list(tmp_path.glob("runs/**/weights"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "model=diffusers", "model.path=nowhere"], "nowhere does not exist (looked in "),
        (["train", "data=image_folder", "data.path=."], ". holds no images (.png, .jpg, .jpeg, .webp, .tif, .tiff, .bmp), no LMDB (data.mdb) and no"),
        (["train", "data=lsun_church", "data.path=nowhere"], "nowhere does not exist (looked in "),
        (["train", "data=cifar10"], "no CIFAR-10 in "),
        (["train", "data=image_folder", "data.path=datasets:nobody/nothing"], "datasets:nobody/nothing is not in the cache of data sets"),
        (["sample", "run=asset:digits_bas"], "no shipped file 'asset:digits_bas'; did you mean 'digits_base'?"),
        (["merge", "experiment=digits/merge"], "no finished train run with method=deme, num_ranges=4, seed=0 in runs/digits/train\n"
         "make it with: deme train -m experiment=digits/deme seed=0"),
        (["evaluate", "inputs.weights=."], ". is not a diffusers model folder"),
        (["reproduce", "nowhere"], "nowhere does not exist\na suite is a folder with a suite.yaml"),
    ],
)  # fmt: skip
def test_a_missing_input_is_exit_3(words, message, tmp_path):
    fails(words, tmp_path, 3, f"deme: {message}")


HEAD = "suite: s\nbaseline: a\nmetrics: [loss]\nfinetune_seeds: [0]\nsample_seeds: [1]\n"
A = "{name: a, label: A, evaluate: []}"


@pytest.mark.parametrize(
    ("text", "line", "parts"),
    [
        (f"{HEAD}rowz: []\nrows: [{A}]", 6, ["rowz", "did you mean 'rows'?"]),
        (f"{HEAD}rows: []", 6, ["rows"]),
        (f"{HEAD}suite: t\nrows: [{A}]", 6, ["'suite' is given twice"]),
        ("suite: s\nrows:\n- {name: a, label: A}", 1, ["baseline must be given"]),
        (f"{HEAD}rows:\n- {A}\n- {{name: a, label: B}}", 8, ["two rows", " a"]),
        (f"{HEAD}rows:\n- {{name: a, label: A, evaluate: }}", 7, ["evaluate: []"]),
        (f"{HEAD}rows:\n- {{name: a, label: A, evaluate: 3}}", 7, ["row a: evaluate must be a list"]),
        (f"{HEAD}rows:\n- {{name: a, label: A}}", 2, ["'a' has no evaluate stage"]),
        (f"{HEAD}rows:\n- {A}\n- {{name: b, label: B, experts_of: a}}", 8, ["experts_of", "train"]),
        (f"{HEAD}rows:\n- {A}\n- {{name: b, label: B, train: [], search_of: a}}", 8, ["search_of", "search"]),
        (f"{HEAD}rows:\n- {{name: a, label: A, train: [], search: [], evaluate: []}}\n- {{name: b, label: B, search_of: a}}",
         8, ["row b: search_of needs a train stage"]),
        (f"{HEAD}rows:\n- {{name: a, label: A, evaluate: [], search: []}}", 7, ["row a: search needs models"]),
        (f"{HEAD}rows:\n- {A}\n- {{name: b, label: B, train: [], search: [], search_of: b}}", 8, ["rows b wait for each other"]),
        (f"{HEAD}rows:\n- {A}\n- {{name: b, label: B, search_of: [a]}}", 8, ["row b: search_of must be a text"]),
        (f"{HEAD}rows:\n- {A}\n- {{name: b, label: B, train: [], experts_of: aa}}", 8, ["'aa' is not a row"]),
        (f"{HEAD}rows:\n- {{name: a, label: A, train: [], evaluate: []}}\n- {{name: b, label: B, train: [], experts_of: a, merge: []}}",
         8, ["row b: experts_of with train gives the experts to that training", "leave out merge"]),
        (f"{HEAD}rows:\n- {{name: a, label: A, train: [], evaluate: []}}\n- {{name: b, label: B, train: [], experts_of: a, experts: [0]}}",
         8, ["which trains one model: leave out experts"]),
        (f"{HEAD}rows: [{A}]\ncomparisons: [a]", 7, ["comparisons", "a list"]),
        (f"{HEAD}rows: [{A}, {{name: b, label: B}}]\ncomparisons:\n- [a, b]", 8, ["'b' has no evaluate stage", "allowed: a"]),
    ],
)  # fmt: skip
def test_a_mistake_in_a_suite_is_exit_2_and_named_with_its_line(
    text, line, parts, tmp_path, capsys
):
    (tmp_path / "s.yaml").write_text(text)
    assert main(["plan", f"{tmp_path}/s.yaml"]) == 2
    message = capsys.readouterr().err
    assert f"s.yaml, line {line}: " in message
    for part in parts:
        assert part in message


def test_a_suite_that_is_no_yaml_is_exit_2(tmp_path):
    (tmp_path / "s.yaml").write_text("suite: [\n")
    fails(["plan", "s.yaml"], tmp_path, 2, "s.yaml", "YAML")


@pytest.mark.parametrize("row", [None, "deme_uniform"])
def test_a_search_with_a_seed_that_a_table_reports_is_exit_2(row, tmp_path):
    suite = yaml.safe_load(DIGITS.read_text())
    for one in suite["rows"]:
        if one["name"] == row:
            one["sample_seeds"] = [7000]
    if row is None:
        suite["sample_seeds"] = [100, 7000]
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(suite))
    fails(["plan", "s.yaml"], tmp_path, 2, "s.yaml: row deme_search", "sample_seed=7000")


def test_a_row_that_cannot_be_costs_no_other_row_its_place_in_the_table(tmp_path):
    evaluate = [*TINY_EVALUATE, "metrics=loss"]
    rows = [
        {"name": "before", "label": "before", "evaluate": evaluate},
        {"name": "weights", "label": "weights", "train": ["method=reweighted", "method.merge_weights=[0,0,0,0]"], "evaluate": evaluate},
    ]  # fmt: skip
    head = {
        "suite": "s",
        "baseline": "before",
        "metrics": ["loss"],
        "finetune_seeds": [0],
        "sample_seeds": [1],
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({**head, "results": "results", "rows": rows}))
    code, text = run(["reproduce", "s.yaml"], tmp_path)
    assert code == 2, text
    (line,) = (line for line in text.splitlines() if line.startswith("deme: "))
    assert "weights train, seed 0" in line
    assert "no finetuning does the same" in text
    assert "1 runs depend on failed ones" in text
    assert "retry=failed" in text.splitlines()[-1]
    page = (tmp_path / "results" / "s.md").read_text()
    assert "| before | 0.0" in page
    assert "| weights | -- |" in page


def test_a_nan_loss_is_exit_4(tmp_path):
    words = ["train", *TINY_TRAIN, "optimizer.lr=1e3", "optimizer.weight_decay=1e6"]
    fails(
        words,
        tmp_path,
        4,
        "deme: the loss became NaN or infinite by step ",
        "try a smaller optimizer.lr",
    )
    (status,) = tmp_path.glob("runs/*/*/*/status.json")
    assert json.loads(status.read_text())["state"] == "failed"


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experts")
    return [done(["train", f"expert={i}", *TINY_EXPERTS, "num_steps=2"], folder) for i in (0, 1)]


def given(*paths):
    return f"inputs.experts=[{','.join(map(str, paths))}]"


def copied(run_dir: Path, place: Path) -> Path:
    """The model folder of a run, without its record."""
    return Path(shutil.copytree(run_dir / "weights" / "ema", place))


def test_merge_weights_of_another_length_are_exit_2(experts, tmp_path):
    fails(
        ["merge", given(*experts), "merge.weights=[0.5,0.2,0.3]"],
        tmp_path,
        2,
        "deme: merge.weights needs 2 finite numbers, one per expert from low to high noise; got 3: [0.5, 0.2, 0.3]",
    )
    fails(
        ["merge", given(*experts), "merge.weights=equal"],
        tmp_path,
        2,
        "deme: merge.weights must be 'uniform' or 'ones' or a list of numbers, got 'equal'",
    )


def test_experts_that_leave_a_hole_or_overlap_are_exit_2(experts, tmp_path):
    fails(
        ["merge", given(experts[1])],
        tmp_path,
        2,
        "the experts do not fit together: ranges [500, 1000) leave a hole at t = 0",
    )
    again = copied(experts[0], tmp_path / "again")
    fails(
        ["evaluate", "source=experts", given(experts[0], again)],
        tmp_path,
        2,
        "ranges [0, 500), [0, 500) overlap at t = 0",
    )
    fails(
        ["evaluate", "source=experts", given(experts[0], again, again)],
        tmp_path,
        2,
        "the same model is given twice: ",
    )


def test_every_mismatch_is_listed_at_once(experts, tmp_path):
    broken = copied(experts[1], tmp_path / "broken")
    state = tensors.TensorFile(broken / UNET).read_all()
    del state["conv_in.weight"]
    state["conv_in.bias"] = state["conv_in.bias"][:3]
    state["extra"] = state["conv_in.bias"]
    tensors.save(broken / UNET, state)
    code, text = run(["merge", given(experts[0], broken)], tmp_path)
    assert code == 2
    assert "these models cannot be merged, 3 mismatches:" in text
    for tensor, found in (
        ("conv_in.weight", "missing"),
        ("conv_in.bias", "[3] float32"),
        ("extra", "[3] float32"),
    ):
        assert f"broken/{UNET}: {tensor} is {found}, in " in text


def test_experts_of_different_bases_are_exit_2(experts, tmp_path):
    other = copied(experts[1], tmp_path / "other")
    about = json.loads((other / "deme.json").read_text())
    (other / "deme.json").write_text(json.dumps({**about, "base": "0" * 64}))
    code, text = run(["merge", given(experts[0], other)], tmp_path)
    assert code == 2
    assert f"{other} was finetuned from another base: its deme.json names {'0' * 64}" in text


def test_merging_into_another_base_is_exit_2(experts, tmp_path):
    base = copied(experts[0], tmp_path / "base")
    code, text = run(["merge", "model=diffusers", f"model.path={base}", given(*experts)], tmp_path)
    assert code == 2
    assert text.count("was finetuned from another base") == 2


def test_missing_damaged_or_nan_weights(experts, tmp_path):
    missing, damaged, nan = (
        copied(experts[1], tmp_path / name) for name in ("missing", "damaged", "nan")
    )
    (missing / UNET).unlink()
    fails(
        ["evaluate", f"inputs.weights={missing}", *TINY_EVALUATE],
        tmp_path,
        3,
        f"deme: {missing / UNET} does not exist",
    )
    (damaged / UNET).write_bytes((damaged / UNET).read_bytes()[:5000])
    fails(
        ["evaluate", f"inputs.weights={damaged}", *TINY_EVALUATE],
        tmp_path,
        4,
        f"deme: {damaged / UNET} is damaged: ",
    )
    state = tensors.TensorFile(nan / UNET).read_all()
    state["conv_in.bias"][0] = float("nan")
    tensors.save(nan / UNET, state)
    fails(
        ["evaluate", f"inputs.weights={nan}", *TINY_EVALUATE],
        tmp_path,
        4,
        f"deme: tensor conv_in.bias of {nan / UNET} holds NaN or infinite values",
    )
    fails(
        ["merge", given(experts[0], nan)],
        tmp_path,
        4,
        f"nothing was merged:\ntensor conv_in.bias of {nan / UNET} holds NaN or infinite values",
    )
    fails(
        ["merge", given(experts[0], nan), "plan=true"],
        tmp_path,
        2,
        f"these models cannot be merged, 1 tensors:\ntensor conv_in.bias of {nan / UNET} holds NaN or infinite values",
    )
    assert not list(tmp_path.glob("runs/*/*/*/metrics.json"))
    assert not list(tmp_path.glob("runs/*/merge/*/weights/merged"))


def test_compiled_gradients_that_differ_from_eager_ones_are_exit_4(tmp_path):
    wrong = """
import torch
torch.nn.Module.compile = lambda self, **_: self.unet.conv_in.bias.register_hook(lambda g: -g)
"""
    words = ["train", *TINY_TRAIN, "compute.compile=true"]
    fails(
        words,
        tmp_path,
        4,
        "deme: compiled gradients differ from eager ones for 1 of ",
        "worst unet.conv_in.bias: off by 2 of its norm",
        "type: compute.compile=false",
        patch=wrong,
    )
    (status,) = tmp_path.glob("runs/*/*/*/status.json")
    assert json.loads(status.read_text())["state"] == "failed"


def test_weights_changed_after_their_run_finished_are_exit_4(experts, tmp_path):
    run_dir = Path(shutil.copytree(experts[0], tmp_path / "run"))
    state = tensors.TensorFile(run_dir / WEIGHTS).read_all()
    state["conv_in.bias"] += 1
    tensors.save(run_dir / WEIGHTS, state)
    fails(
        ["evaluate", f"inputs.weights={run_dir}", *TINY_EVALUATE],
        tmp_path,
        4,
        f"deme: the weights of {run_dir} changed after that run finished",
    )


def test_an_unfinished_run_is_no_input(experts, tmp_path):
    run_dir = Path(shutil.copytree(experts[0], tmp_path / "run"))
    (run_dir / "status.json").write_text('{"state": "running"}')
    fails(
        ["evaluate", f"inputs.weights={run_dir}"],
        tmp_path,
        3,
        f"deme: {run_dir} is not finished (state: running)",
    )


def test_a_run_directory_of_another_config_is_exit_2(tmp_path):
    run_dir = done(["train", *TINY_TRAIN], tmp_path)
    frozen = yaml.safe_load((run_dir / "config.yaml").read_text())
    (run_dir / "config.yaml").write_text(yaml.safe_dump({**frozen, "batch_size": 17}))
    before = (run_dir / WEIGHTS).read_bytes()
    fails(
        ["train", *TINY_TRAIN],
        tmp_path,
        2,
        f"deme: {run_dir.relative_to(tmp_path)} holds the run of another config",
    )
    (run_dir / "config.yaml").write_text("{")  # nor a cut one
    fails(["train", *TINY_TRAIN], tmp_path, 2, "holds the run of another config")
    assert (run_dir / WEIGHTS).read_bytes() == before


def test_a_damaged_status_or_checkpoint_is_exit_4(tmp_path):
    run_dir = done(["train", *TINY_TRAIN], tmp_path)
    (run_dir / "status.json").write_text('{"state": "run')
    fails(
        ["train", *TINY_TRAIN],
        tmp_path,
        4,
        f"deme: {run_dir.relative_to(tmp_path)}/status.json is damaged",
    )
    (run_dir / "status.json").write_text('{"state": "preempted"}')
    (run_dir / "checkpoints" / "last.ckpt").write_bytes(b"cut")
    fails(
        ["train", *TINY_TRAIN],
        tmp_path,
        4,
        "last.ckpt is damaged: ",
        "delete it to train from the start",
    )


def test_a_path_that_cannot_be_written_is_exit_74(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for words in (["train", *TINY_TRAIN], ["evaluate", *TINY_EVALUATE]):
        fails(
            [*words, "paths.runs=file/runs"],
            tmp_path,
            74,
            "deme: cannot write file/runs/",
            "Not a directory",
            "paths.runs=<dir>",
        )
    fails(
        ["sample", "run=asset:digits_base", "num_images=1", "out=file/grid.png"],
        tmp_path,
        74,
        "deme: cannot write file/grid.png",
    )


FULL = "no space left on the disk while writing "
FULL_FILE = """
import contextlib, os
from deme.system import files
def full(name):
    real = files._temporary
    @contextlib.contextmanager
    def temporary(path, folder=False):
        with real(path, folder) as (partial, handle):
            if path.name == name:
                os.dup2(os.open("/dev/full", os.O_WRONLY), handle)
            yield partial, handle
    files._temporary = temporary
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The name of the run directory that the smallest training makes in any folder."""
    folder = tmp_path_factory.mktemp("trained")
    return done(["train", *TINY_TRAIN], folder).relative_to(folder)


@pytest.mark.parametrize(
    "name",
    [
        "config.yaml",
        "run.json",
        "status.json",
        "checkpoints/last.ckpt",
    ],
)
def test_a_full_disk_while_training_is_exit_74_and_nothing_is_half_written(name, trained, tmp_path):
    words = ["train", *TINY_TRAIN]
    full = FULL_FILE + f"full({Path(name).name!r})"
    fails(
        words,
        tmp_path,
        74,
        f"deme: {FULL}{trained / name}",
        "free some space and run it",
        patch=full,
    )
    assert not (tmp_path / trained / name).exists()
    assert not list(tmp_path.rglob("*.tmp"))
    code, text = run(words, tmp_path)
    assert code == 0, text


ENOSPC = """
import builtins, errno, os
real = os.write
def full(handle, data):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
"""
FULL_JOURNAL = (
    ENOSPC
    + "import deme.system.files; deme.system.files.os.write = lambda h, d: full(h, d) if b'loss' in d or b'score' in d else real(h, d)"
)
FULL_WEIGHTS = (
    ENOSPC
    + """
import deme.system.tensors
from contextlib import contextmanager
atomic = deme.system.tensors.atomic
class Disk:
    def __init__(self, file): self.file, self.left = file, 20_000
    def write(self, data):
        self.left -= len(data)
        if self.left < 0: full(0, data)
        return self.file.write(data)
@contextmanager
def small(path):
    with atomic(path) as file:
        yield Disk(file)
deme.system.tensors.atomic = small
"""
)


@pytest.mark.parametrize("patch", [FULL_JOURNAL, FULL_WEIGHTS], ids=["training curve", "weights"])
def test_enospc_from_the_write_itself_is_exit_74(patch, tmp_path):
    words = ["train", *TINY_TRAIN]
    fails(words, tmp_path, 74, f"deme: {FULL}runs/", patch=patch)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not list(tmp_path.rglob("*.tmp"))
    code, text = run(words, tmp_path)
    assert code == 0, text


def test_a_full_disk_while_evaluating_merging_or_searching_is_exit_74(experts, tmp_path):
    small, cache = FULL_WEIGHTS.replace("20_000", "20"), f"paths.cache={tmp_path}/cache"
    fails(["stats", cache], tmp_path, 74, f"deme: {FULL}{tmp_path}/cache/references/", patch=small)
    assert run(["stats"], tmp_path)[0] == 0  # the reference is there now
    fails(
        ["evaluate", *TINY_EVALUATE],
        tmp_path,
        74,
        f"deme: {FULL}runs/scratch/evaluate/",
        patch=FULL_WEIGHTS.replace("20_000", "20"),
    )
    fails(
        ["merge", given(*experts)],
        tmp_path,
        74,
        f"deme: {FULL}runs/scratch/merge/",
        patch=FULL_WEIGHTS,
    )
    search = [
        "search",
        given(*experts),
        "num_images=4",
        "batch_size=4",
        "search.step=1",
        "sampler.num_inference_steps=2",
    ]
    fails(search, tmp_path, 74, f"deme: {FULL}runs/scratch/search/", patch=FULL_JOURNAL)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not list(tmp_path.rglob("best.json"))


def test_one_failing_job_of_a_sweep_decides_the_exit_code_and_the_others_run(tmp_path):
    words = ["train", "-m", "expert=0,9,1", *TINY_EXPERTS, "num_steps=1"]
    code, text = run(words, tmp_path)
    assert code == 2
    for record in tmp_path.glob("runs/scratch/train/*/run.json"):  # each that of its own job
        command, config = (
            json.loads(record.read_text())["command"],
            yaml.safe_load((record.parent / "config.yaml").read_text()),
        )
        assert command[:2] == ["train", f"expert={config['expert']}"]
        assert "num_steps=1" in command
    assert "deme: expert=9: with 2 ranges it must lie in 0..1" in text
    assert "Traceback" not in text
    finished = [
        json.loads(p.read_text())["state"]
        for p in tmp_path.glob("runs/scratch/train/*/status.json")
    ]
    assert finished == ["done", "done"]  # the other was refused before it had a directory


STOPPED = """
import os, signal, deme.training.fit as f
real = f.fit
def stopped(*args, **more):
    ENDS
f.fit = stopped
"""


@pytest.mark.parametrize(
    ("ends", "code"),
    [("os.kill(os.getpid(), signal.SIGTERM)", 75), ("raise ZeroDivisionError", 1)],
)
def test_failed_jobs_are_named_when_the_sweep_is_stopped(ends, code, tmp_path):
    words = ["train", "-m", "expert=9,8,1", *TINY_EXPERTS, "num_steps=1"]
    found, text = run(words, tmp_path, STOPPED.replace("ENDS", ends))
    assert found == code, text
    for expert in (9, 8):
        assert f"error: expert={expert}: with 2 ranges it must lie in 0..1" in text  # at once
        assert f"deme: expert={expert}: with 2 ranges it must lie in 0..1" in text
    assert not list(tmp_path.glob("runs/.multirun/jobs*"))


def test_what_failed_in_jobs_is_kept_below_the_runs_where_all_machines_see_it(tmp_path):
    words = ["train", "-m", "expert=9,1", *TINY_EXPERTS, "num_steps=1", "paths.runs=elsewhere"]
    found, _ = run(words, tmp_path, STOPPED.replace("ENDS", "os._exit(9)"))
    assert found == 9
    (file,) = tmp_path.glob("elsewhere/.multirun/jobs-*.jsonl")
    assert json.loads(file.read_text())["job"] == "expert=9"


LONG, NOBODY = "x" * 300, "~nobody-of-this-name/x"


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["train", f"paths.runs={LONG}"], 74, "File name too long"),
        (["stats", f"paths.cache={NOBODY}"], 2, NOBODY),
        (["convert", "file", f"out={LONG}"], 74, "File name too long"),
        (["convert", "file", f"out={NOBODY}"], 2, NOBODY),
        (["export", "run=asset:digits_base", f"out={LONG}"], 74, "File name too long"),
        (["export", "run=asset:digits_base", f"out={NOBODY}"], 2, NOBODY),
        (["export", "run=asset:digits_base", "out=x", f"paths.cache={NOBODY}"], 2, NOBODY),
        (["improve", "model=asset:digits_base", "data=digits", f"out={LONG}"], 74, "File name"),
        (["improve", "model=asset:digits_base", "data=digits", f"out={NOBODY}"], 2, NOBODY),
        (["table", "experiments/digits", f"results={NOBODY}"], 2, NOBODY),
    ],
)  # fmt: skip
def test_what_cannot_be_a_path_is_one_message(words, code, part, tmp_path):
    (tmp_path / "file").write_text("")
    fails(words, tmp_path, code, part)


NO_LOCKS = """
import errno, fcntl, os
def none(handle, kind): raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = none
"""


def test_a_disk_without_locks_is_exit_74(tmp_path):
    fails(["train", *TINY_TRAIN], tmp_path, 74, "No locks available", patch=NO_LOCKS)
    assert not list(tmp_path.rglob("weights"))
