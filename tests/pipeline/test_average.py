"""Raw and averaged weights of a run, its snapshots, and what `deme average` makes of them."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from deme.cli.app import main
from deme.commands.train import run as train
from deme.data.digits import load_digits
from deme.evaluation.passport import format_passport, raw_warning, weights_kind
from deme.merging.methods.linear import linear
from deme.merging.power_profiles import TRACKED, Profile, reconstruct
from deme.merging.similarity import block_of
from deme.models.layout import UNET
from deme.models.loading import load_pretrained
from deme.runs import Run, compose_stage, expand_path_shortcut, read_status
from deme.system import BadConfig, MissingInput, files
from deme.system.paths import locate
from deme.system.tensors import TensorFile
from tests.models import passport_of
from tests.pipeline.program import TINY_TRAIN, done, run

STEPS = (4, 8, 12)
WORDS = [*TINY_TRAIN, "optimizer.lr=1e-2", "snapshots.every=4"]


def weights(folder):
    return TensorFile(Path(folder) / UNET).read_all()


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def near(one, other, size=2e-7):
    """Equal up to a few roundings of numbers of size 1 in float32."""
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name].float(), rtol=size, atol=size)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("averages")


@pytest.fixture(scope="module")
def trained(place):
    """A finished run with raw and averaged weights, and three snapshots of EDM2's averages."""
    return done(["train", *WORDS, "ema=post_hoc"], place)


@pytest.fixture
def deme(place, monkeypatch, capsys, caplog):
    """Run a command in the folder of the runs: exit code, run directory and what it said."""
    monkeypatch.chdir(place)

    def command(*words):
        code = main(list(words))
        caught = capsys.readouterr()
        found = [line for line in caught.out.splitlines() if line.startswith("runs/")]
        return code, Path(found[-1]) if found else None, caught.out + caught.err

    return command


def snapshot(trained, step, *more):
    return trained.joinpath("weights", "snapshots", f"{step:08}", *more)


def test_a_run_keeps_raw_and_averaged_weights_and_snapshots(trained):
    assert sorted(p.name for p in (trained / "weights").iterdir()) == ["ema", "raw", "snapshots"]
    raw, ema = (weights(trained / "weights" / kind) for kind in ("raw", "ema"))
    assert not equal(raw, ema)
    assert equal(raw, weights(snapshot(trained, 12)))
    assert equal(ema, weights(snapshot(trained, 12, "power_0.1")))
    abouts = [
        json.loads((trained / "weights" / k / "deme.json").read_text()) for k in ("raw", "ema")
    ]
    assert [about.pop("ema") for about in abouts] == [False, True]
    assert abouts[0] == abouts[1]
    recorded = read_status(trained)["weights"]
    for name, digest in recorded.items():
        assert digest == files.sha256(trained / "weights" / name)
    assert recorded.keys() == {"ema", "raw", "snapshots"}


@pytest.mark.parametrize(
    ("words", "kinds"),
    [(["ema=none"], ["raw"]), (["export=[ema]"], ["ema"]), (["export=[raw]"], ["raw"])],
)
def test_what_is_exported_can_be_chosen(words, kinds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = train(compose_stage("train", [*TINY_TRAIN, "num_steps=1", *words]))
    assert sorted(p.name for p in (run / "weights").iterdir()) == kinds


def test_the_mean_of_snapshots_is_that_in_memory(deme, trained):
    code, run, text = deme("average", f"inputs.run={trained}")
    assert code == 0, text
    found, given = weights(run / "weights/averaged"), [weights(snapshot(trained, s)) for s in STEPS]
    memory = {name: linear([one[name] for one in given], given[0][name], weights=[1 / 3] * 3) for name in found}  # fmt: skip
    assert equal(found, memory)
    near(found, {name: sum(one[name].double() for one in given) / 3 for name in found})
    about = json.loads((run / "weights/averaged/deme.json").read_text())
    assert (about["ema"], about["average"]) == (True, "mean of 3 snapshots, steps 4 to 12")
    names = [f"{trained.name}/snapshots/{step:08}" for step in STEPS]
    assert about["averaged"] == [{"model": name, "weight": 1 / 3} for name in names]
    load_pretrained(str(run / "weights/averaged"))


def test_the_mean_of_some_snapshots(deme, trained):
    code, run, text = deme("average", f"inputs.run={trained}", "average.steps=[12,4]")
    assert code == 0, text
    one, other = (weights(snapshot(trained, step)) for step in (4, 12))
    near(weights(run / "weights/averaged"), {name: (one[name].double() + other[name]) / 2 for name in one})  # fmt: skip
    code, _, text = deme("average", f"inputs.run={trained}", "average.steps=[12,5]")
    assert code == 2
    assert "average.steps: no snapshot of step 5; there are: 4, 8, 12" in text


@pytest.mark.parametrize(("length", "until"), [(0.1, 8), (0.15, 12)])
def test_a_length_after_training_is_the_combination_of_stored_averages(
    length, until, deme, trained
):
    words = [f"average.ema_length={length}", f"average.until={until}"]
    code, run, text = deme("average", f"inputs.run={trained}", "average=power", *words)
    assert code == 0, text
    profiles = [Profile(each, step) for step in STEPS if step <= until for each in TRACKED]
    parts = reconstruct(profiles, Profile(length, until)).weights
    stored = [weights(snapshot(trained, p.step, f"power_{p.length:g}")) for p in profiles]
    expected = {
        name: sum(part * one[name].double() for part, one in zip(parts, stored, strict=True))
        for name in stored[0]
    }
    near(weights(run / "weights/averaged"), expected, 1e-6)
    if length in TRACKED:
        near(weights(run / "weights/averaged"), stored[-1], 1e-6)


def test_a_soup_of_runs_is_their_mean(deme, trained):
    """By hand, of the averages, and of raw weights where they are asked for."""
    base = weights(locate("asset:digits_base"))
    ids = set()
    for kind in ("ema", "raw"):
        words = [f"inputs.run=[{trained},asset:digits_base]", f"run_weights={kind}"]
        code, run, text = deme("average", *words)
        assert code == 0, text
        mine = weights(trained / "weights" / kind)
        near(weights(run / "weights/averaged"), {n: (mine[n].double() + base[n]) / 2 for n in base})
        said = {"ema": "averaged weights (EMA)", "raw": "raw weights"}[kind]
        assert f"inputs.run: the {said} of {trained.name}" in text
        ids.add(run.name)
    assert len(ids) == 2
    code, run, text = deme("average", f"inputs.run=[{trained}/weights/raw,asset:digits_base]")
    assert run.name in ids  # what the inputs hold counts, not how they are named


def test_a_searched_mixture_is_an_average_of_sum_one(deme, trained):
    words = ["objective=loss", "num_images=12", "batch_size=12", "metrics=loss"]
    search = ["search=gradient", "search.low=-1", "search.max_evaluations=5", "merge=linear"]
    code, found, text = deme("search", f"inputs.snapshots_of={trained}", *search, *words)
    assert code == 0, text
    best = json.loads((found / "best.json").read_text())
    assert len(best["weights"]) == 3
    assert sum(best["weights"]) == pytest.approx(1, abs=1e-9)
    scores = [json.loads(line) for line in (found / "evaluations.jsonl").read_text().splitlines()]
    assert {len(row["weights"]) for row in scores} == {2}  # the last follows from the others
    assert best["score"] <= scores[0]["score"]  # of the plain mean
    code, run, text = deme(
        "average", f"inputs.run={trained}", "average=mixture", f"inputs.search={found}"
    )
    assert code == 0, text
    given = [weights(snapshot(trained, step)) for step in STEPS]
    expected = {
        name: sum(w * one[name].double() for w, one in zip(best["weights"], given, strict=True))
        for name in given[0]
    }
    near(weights(run / "weights/averaged"), expected, 1e-6)


def test_a_mixture_may_differ_from_block_to_block(deme, trained):
    words = ["objective=loss", "num_images=8", "batch_size=8", "metrics=loss", "granularity=block"]
    search = ["search=gradient", "search.low=-1", "search.max_evaluations=2", "merge=linear"]
    code, found, text = deme("search", f"inputs.snapshots_of={trained}", *search, *words)
    assert code == 0, text
    by_name = json.loads((found / "best.json").read_text())["weights_by_name"]
    assert all(sum(row) == pytest.approx(1, abs=1e-9) for row in by_name.values())
    code, run, text = deme("average", f"inputs.run={trained}", "average=mixture", f"inputs.search={found}")  # fmt: skip
    assert code == 0, text
    given = [weights(snapshot(trained, step)) for step in STEPS]
    for name, mixed in weights(run / "weights/averaged").items():
        row = by_name[f"{block_of(name)}.*"]
        expected = sum(w * one[name].double() for w, one in zip(row, given, strict=True))
        torch.testing.assert_close(mixed, expected.float(), rtol=1e-6, atol=1e-6)


def test_a_model_that_is_a_run_is_its_average_which_is_said_once(
    deme, trained, messages, monkeypatch
):
    option = expand_path_shortcut(f"model={trained}")
    assert option == ["model=diffusers", f"model.path={trained}/weights/ema"]
    assert not messages
    monkeypatch.setenv("HOME", str(trained.parent))
    assert expand_path_shortcut(f"model=~/{trained.name}") == option
    monkeypatch.setenv("HOME", str(trained.parents[2]))
    with pytest.raises(BadConfig, match="type: model="):
        expand_path_shortcut(f"model=~/{trained.parents[1].name}")
    assert main(["evaluate", f"model={trained}", "data=digits", "num_images=none"]) == 2
    assert messages.count(f"model: the averaged weights (EMA) of {trained.name}") == 1


def test_the_derivative_by_weights_of_sum_one_is_that_of_differences(deme, trained):
    from deme.builders import open_average
    from deme.evaluation.objective import build_objective
    from deme.runs import SearchSettings, build

    words = [f"inputs.snapshots_of={trained}", "merge=linear", "objective=loss", "num_images=12"]
    settings = build(SearchSettings, compose_stage("search", [*words, "metrics=loss"]))
    scored = build_objective(settings, open_average([snapshot(trained, step) for step in STEPS]))
    at = [0.2, 0.5]
    _, gradient = scored.objective.gradient(at)
    for index in range(2):
        ends = [[w + side * 1e-2 * (i == index) for i, w in enumerate(at)] for side in (1, -1)]
        high, low = map(scored.objective.value, ends)
        assert gradient[index] == pytest.approx((high - low) / 2e-2, rel=2e-2, abs=1e-5)


def test_averages_are_inputs_like_any_model(deme, trained):
    _, run, _ = deme("average", f"inputs.run={trained}")
    code, merged, text = deme("merge", f"inputs.experts=[{run},{trained}]", "merge=linear", "report=false")  # fmt: skip
    assert code == 0, text
    one, other = weights(run / "weights/averaged"), weights(trained / "weights/ema")
    near(weights(merged / "weights/merged"), {name: (one[name].double() + other[name]) / 2 for name in one})  # fmt: skip
    code, _, text = deme("export", f"run={run}", "out=exported")
    assert code == 0, text
    assert "the average of weights of one training run" in Path("exported/README.md").read_text()
    assert equal(weights("exported"), one)
    for step in ("snapshots/00000004", "snapshots/00000008/power_0.05", "raw"):
        assert main(["sample", f"run={trained}/weights/{step}", "num_images=1", "sampler.num_inference_steps=2"]) == 0  # fmt: skip


def run_of(trained, weights_of):
    words = [f"inputs.weights={trained}", "metrics=loss", f"run_weights={weights_of}"]
    return Run.planned(compose_stage("evaluate", words))


def test_which_weights_an_input_means_is_in_its_hash(deme, trained):
    recorded = read_status(trained)["weights"]
    for kind in ("ema", "raw"):
        run = run_of(trained, kind)
        assert run.hashes["weights"] == [recorded[kind]]
        assert run.weights_folders("weights") == [trained / "weights" / kind]


def older(trained, place):
    """The run as it was before raw weights were kept."""
    copy = Path(shutil.copytree(trained, place / trained.name))
    shutil.rmtree(copy / "weights" / "raw")
    shutil.rmtree(copy / "weights" / "snapshots")
    status = json.loads((copy / "status.json").read_text())
    status["weights"] = {"ema": status["weights"]["ema"]}
    status["outputs"] = {n: size for n, size in status["outputs"].items() if (copy / n).exists()}
    (copy / "status.json").write_text(json.dumps(status))
    return copy


def test_weights_that_a_run_does_not_have_are_one_message(deme, trained, tmp_path):
    run = older(trained, tmp_path)
    assert run_of(run, "ema").hashes == run_of(trained, "ema").hashes
    code, _, text = deme("evaluate", f"inputs.weights={run}", "run_weights=raw", "metrics=loss")
    message = text[text.index("deme: ") :].strip()
    assert code == 2
    assert "has no raw weights, only their average" in message
    assert "\ntype: run_weights=ema\n" in message
    assert "deme train num_steps=12" in message  # that makes it again
    assert len(message.splitlines()) == 3
    code, _, text = deme("average", f"inputs.run={run}")
    assert code == 2
    assert "has no snapshots" in text
    assert "snapshots.every=<n>" in text


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["train", "export=[]"], ["export must be"]),
        (["train", "export=[raw,raw]"], ["export must be a list of different values"]),
        (["train", "export=[mean]"], ["export.0 must be one of raw, ema; got 'mean'"]),
        (["train", "ema=none", "export=[ema]"], ["ema=none has none\ntype: export=[raw], or ema=warmup"]),
        (["train", "ema=post_hoc"], ["ema=post_hoc stores", "\ntype: snapshots.every="]),
        (["train", "ema=post_hoc", "snapshots.every=4", "ema.length=0.5"], ["ema.length must be"]),
        (["train", "snapshots.every=0"], ["snapshots.every must be"]),
        (["evaluate", "run_weights=mean"], ["run_weights must be one of ema, raw; got 'mean'"]),
        (["evaluate", "run_weights=raw", "metrics=loss"], ["none is given\ntype: model=<run>/weights/raw"]),
        (["average"], ["inputs.run must be given"]),
        (["average", "inputs.run=[]"], ["nothing to average"]),
        (["average", "inputs.run=asset:digits_base"], ["not a run directory", "\ntype: "]),
        (["average", "inputs.run=[asset:digits_base,asset:captioned_digits]", "average=power"], ["inputs.run names 2"]),
        (["average", "inputs.run=[asset:digits_base,asset:captioned_digits]", "average.steps=[3]"], ["inputs.run names 2"]),
        (["average", "inputs.run=RUN", "average=power", "average.ema_length=0.4"], ["average.ema_length must be"]),
        (["average", "inputs.run=RUN", "average=mixture"], ["inputs.search is not given\ntype: inputs.search="]),
        (["search", "merge=linear"], ["one of inputs.experts and inputs.snapshots_of", "got 0"]),
        (["search", "inputs.snapshots_of=RUN"], ["a sum of 1\ntype: merge=linear"]),
        (["search", "inputs.snapshots_of=RUN", "merge=linear", "loss_planes.points=3"], ["type: loss_planes.points=0"]),
    ],
)  # fmt: skip
def test_a_slip_is_one_message(words, parts, deme, trained):
    code, _, text = deme(*[word.replace("RUN", str(trained)) for word in words])
    assert code in (MissingInput.exit_code, 2)
    message = text[text.index("deme: ") :].strip()
    for part in parts:
        assert part in message
    assert len(message.splitlines()) <= 3


def test_models_that_do_not_fit_together_are_named(deme):
    code, _, text = deme("average", "inputs.run=[asset:digits_base,asset:captioned_digits]")
    assert code == 2
    assert "captioned_digits has in_channels=4 in its config.json" in text


def test_the_passport_tells_raw_from_averaged_weights(trained, tmp_path, in_tmp):
    found = {}
    for kind in ("raw", "ema"):
        option = {"path": str(trained / "weights" / kind)}
        model = load_pretrained(**option)
        found[kind] = passport_of(option, model, load_digits(), tmp_path)
        assert found[kind]["weights"] == kind
    assert raw_warning(found["raw"])[1] == f"its average is here: {trained / 'weights' / 'ema'}"
    assert raw_warning(found["ema"]) == []
    assert not any("not averaged" in line for line in format_passport(found["ema"]))
    step = passport_of({"path": str(snapshot(trained, 4))}, model, load_digits(), tmp_path)
    assert (step["weights"], step["average"]) == ("raw", None)
    profile = {"path": str(snapshot(trained, 4, "power_0.05"))}
    step = passport_of(profile, model, load_digits(), tmp_path)
    assert step["weights"] == "ema"
    assert "power function of length 0.05" in step["weights_because"]


@pytest.mark.parametrize(("kind", "warned"), [("raw", 1), ("ema", 0)])
def test_a_training_from_raw_weights_warns(kind, warned, trained, tmp_path):
    code, text = run(["--quiet", "train", *TINY_TRAIN, f"model={trained}/weights/{kind}"], tmp_path)
    assert code == 0, text
    assert text.count("this base is not averaged") == warned


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("models/ddpm-cifar10-32", "raw"),  # as `deme prepare` names them
        ("models/ddpm-church-256", "raw"),
        ("models/ddpm-bedroom-256/", "raw"),
        ("models/ddpm-ema-church-256", "ema"),
        ("models/stable-diffusion-v1-4", "ema"),
        ("models/stable-diffusion-v1-4-mine", "unknown"),
    ],
)
def test_the_weights_of_the_papers_checkpoints_are_known(path, kind, tmp_path):
    (tmp_path / path).mkdir(parents=True)
    assert weights_kind(f"{tmp_path}/{path}")[0] == kind


def test_a_known_model_of_the_hub_is_known_by_its_name(tmp_path, monkeypatch):
    # of a revision's folder, whose name is a hash
    monkeypatch.setattr("deme.evaluation.passport.locate", lambda _: tmp_path)
    assert weights_kind("hub:google/ddpm-cifar10-32")[0] == "raw"
    assert weights_kind("hub:google/ddpm-cifar10-32@267b167")[0] == "raw"
    assert weights_kind("hub:google/ddpm-cifar10-32-mine")[0] == "unknown"
    assert weights_kind("hub:me/ddpm-cifar10-32")[0] == "unknown"
