"""`deme analyze`: figures of models on disk, what they cost, what they leave, and what they refuse."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from deme.runs import compose_stage, identity_hash
from tests.pipeline.program import TINY_EXPERTS, done, run

SIMILARITY = ["figure=gradient_similarity", "figure.num_bins=5", "figure.num_images=2048",
              "figure.num_ranges=3", "figure.batch_size=256"]  # fmt: skip
HELD_OUT = ["figure.num_images=20", "figure.draws=1"]
LANDSCAPE = ["figure.points=3", "figure.num_iterations=1", "figure.num_directions=1"]


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experts")
    runs = [done(["train", f"expert={i}", *TINY_EXPERTS, "num_steps=3"], folder) for i in (0, 1)]
    return [str(run_dir) for run_dir in runs]


def written(folder, name):
    """What a figure leaves: each of its files is one of its kind."""
    with Image.open(folder / f"{name}.png") as image:
        assert image.size[0] > 300
    svg = (folder / f"{name}.svg").read_text()
    assert svg.lstrip().startswith("<?xml")
    assert not re.search(r"20\d\d-\d\d-\d\dT", svg)  # no date: the same numbers, the same bytes
    assert not list(folder.glob(".*.parts"))
    assert not list(folder.rglob("*.tmp"))
    return json.loads((folder / f"{name}.json").read_text())


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name[0] != "."}


def test_a_figure_says_its_cost_is_drawn_again_and_feeds_ranges(tmp_path):
    code, text = run(["analyze", *SIMILARITY, "plan=true"], tmp_path)
    assert code == 0, text
    assert "cost of figure=gradient_similarity: 30,720 forward passes" in text
    assert not files_of(tmp_path)

    code, text = run(["analyze", *SIMILARITY, "out=s.png"], tmp_path)
    assert code == 0, text
    assert "cost of figure=gradient_similarity" in text
    numbers = written(tmp_path, "s")
    assert np.array(numbers["cosines"]).shape == (5, 5)
    first = files_of(tmp_path)
    code, text = run(["analyze", *SIMILARITY, "out=s.png"], tmp_path)
    assert code == 0, text
    assert "the figure is drawn again" in text
    assert "cost" not in text
    assert files_of(tmp_path) == first

    ranges = {}
    for name, more in (
        ("measured", ["ranges.num_bins=5", "ranges.num_images=2048"]),
        ("read", ["ranges.path=s.json"]),
    ):
        words = ["method=ant", "balancing=pcgrad", "ranges=gradient", "ranges.num_ranges=3"]
        run_dir = done(["train", *words, *more, *TINY_EXPERTS[2:], f"suite={name}"], tmp_path)
        ranges[name] = json.loads((run_dir / "weighting.json").read_text())["ranges"]
        cost = json.loads((run_dir / "cost.json").read_text())["num_forward_passes"]
        assert cost == 3 * 12 * 16 + (3 * 5 * 2048 if name == "measured" else 0)
        affinity = run_dir / "affinity.json"
        assert affinity.exists() == (name == "measured")
        if affinity.exists():  # the same samples, in another order of sums
            cosines = np.array(json.loads(affinity.read_text())["cosines"])
            np.testing.assert_allclose(cosines, numbers["cosines"], atol=1e-4)
    assert ranges["measured"] == ranges["read"]


def test_affinities_of_another_model_are_refused_or_pointed_out(tmp_path):
    base = {"cosines": np.eye(4).tolist(), "reliability": [1.0] * 4}
    files = {
        "steps": {**base, "num_timesteps": 500},
        "other": {**base, "num_timesteps": 1000, "base": "0" * 64},
        "noisy": {**base, "reliability": [0.0] * 4, "num_images": 10},
    }
    for name, found in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    words = ["train", "method=ant", "ranges=gradient", "ranges.num_ranges=2", *TINY_EXPERTS[2:],
             "num_steps=1"]  # fmt: skip
    code, text = run([*words, "ranges.path=steps.json"], tmp_path)
    assert (code, "500 timesteps" in text) == (2, True), text
    code, text = run([*words, "ranges.path=noisy.json"], tmp_path)
    assert (code, "figure.num_images=40" in text) == (4, True), text
    code, text = run([*words, "ranges.path=other.json"], tmp_path)
    assert (code, "at other weights" in text) == (0, True), text


def test_ranges_that_are_measured_keep_the_identity_of_their_runs():
    config = compose_stage("train", ["ranges=gradient"])
    older = {**config, "ranges": {k: v for k, v in config["ranges"].items() if k != "path"}}
    assert identity_hash(config, "train", {}) == identity_hash(older, "train", {})


@pytest.mark.parametrize(
    ("name", "more", "shape"),
    [
        ("forgetting", HELD_OUT, (2, 2)),
        ("feature_change", HELD_OUT, (2, 5)),
        ("loss_landscape", [*HELD_OUT, *LANDSCAPE, "figure.directions=tasks"], None),
    ],
)
def test_figures_of_experts(name, more, shape, experts, tmp_path):
    words = ["analyze", f"figure={name}", f"inputs.experts=[{','.join(experts)}]", *more]
    code, text = run(words, tmp_path)
    assert code == 0, text
    numbers = written(tmp_path, name)
    if shape is not None:
        assert np.array(numbers["changes"]).shape == shape
        assert numbers["ranges"] == [[0, 500], [500, 1000]]
    else:
        assert [plane["of"] for plane in numbers["planes"]] == [[0, 500], [500, 1000]]
    words[2] = f"inputs.experts=[{','.join(reversed(experts))}]"  # their order does not matter
    code, text = run(words, tmp_path)
    assert code == 0, text
    assert "the figure is drawn again" in text


def test_models_are_compared_by_label(experts, tmp_path):
    models = f"inputs.models={{routed: [{','.join(experts)}], first: {experts[0]}}}"
    words = ["analyze", "figure=loss_by_timestep", models, *HELD_OUT, "figure.num_bins=4"]
    code, text = run(words, tmp_path)
    assert code == 0, text
    numbers = written(tmp_path, "loss_by_timestep")
    assert numbers["labels"] == ["routed", "first"]
    assert numbers["experts"] == [500]
    routed, first = numbers["changes"]
    assert routed[:2] == first[:2]  # where the first expert answers
    assert routed[2:] != first[2:]
    text = (tmp_path / "loss_by_timestep.csv").read_text()
    assert text.startswith("timesteps,loss of the base,routed,first\n")


REFUSED = [
    (["figure=forgetting"], ["type: inputs.experts="]),
    (["figure=feature_change"], ["type: inputs.experts="]),
    (["figure=loss_by_timestep"], ["inputs.models="]),
    (["figure=loss_landscape", "figure.directions=tasks"], ["type: inputs.experts="]),
    (["figure=loss_landscape", "figure.directions=up"], ["random, gradient, tasks", "'up'"]),
    (["figure=loss_landscape", "figure.points=2"], ["figure.points", "at least 3"]),
    (["figure=gradient_similarity", "figure.num_bins=3"], ["figure.num_bins", "got 3"]),
    (["figure=gradient_similarity", "figure.num_images=8"], ["figure.num_images", "8"]),
    (["figure=gradient_similarity", "data=none"], ["data=none", "type: data="]),
    (["figure=weightings", "inputs.experts=[x]"], ["does not use inputs.experts"]),
    (["figure=forgetting", "inputs.models={a: b}"], ["does not use inputs.models"]),
    (["figure=forgetting", "inputs.experts=[asset:digits_base]"], ["is not an expert"]),
    (["figure=forgetting", "inputs.experts={a: b}"], ["inputs.experts must be"]),
    (["figure=decomposition"], ["type: figure.table="]),
    (
        ["figure=decomposition", "figure.table=a.csv", "out=a.png"],
        ["would replace the table a.csv"],
    ),
    (
        ["figure=loss_landscape", "inputs.experts=[x]"],
        ["does not use inputs.experts\ntype: figure.dir"],
    ),
]


@pytest.mark.parametrize(("words", "texts"), REFUSED, ids=lambda value: " ".join(value)[:50])
def test_what_a_figure_cannot_be_made_of_is_refused(words, texts, tmp_path):
    code, text = run(["analyze", *words], tmp_path)
    assert code in (2, 3), text
    assert all(each in text for each in texts), text
    assert len(text.strip().splitlines()) <= 3
    assert not files_of(tmp_path)


def test_a_file_of_another_kind_is_not_replaced(tmp_path):
    (tmp_path / "weightings.json").write_text('{"my": "notes"}')
    code, text = run(["analyze"], tmp_path)
    assert code == 2, text
    assert "type: out=" in text
    assert list(files_of(tmp_path)) == ["weightings.json"]
