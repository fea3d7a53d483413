"""`deme search` as it is typed: what it writes, what a kill and a budget do, what its slips say."""

import json
import math
import re

import pytest
import torch
import yaml

from deme.merging.search.journal import Evaluation
from deme.merging.similarity import block_of
from deme.models.layout import UNET
from deme.report.search import best_so_far
from deme.system import files, tensors
from deme.system.paths import locate
from tests.pipeline.program import TINY_EXPERTS, TINY_SEARCH, done, run, start

LOSS = ["objective=loss", "num_images=12", "batch_size=12"]
IMAGES, RANGES = 12, 4  # of LOSS
SLOW = """
import time
from deme.evaluation.denoising_error import DenoisingError
real = DenoisingError.value
def value(self, *asked):
    time.sleep(0.1)
    return real(self, *asked)
DenoisingError.value = value
"""


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experts")
    words = ["train", *TINY_EXPERTS, "num_steps=3", "optimizer.lr=1e-3"]
    return [done([*words, f"expert={i}"], folder) for i in (0, 1)]


@pytest.fixture(scope="module")
def given(experts):
    return f"inputs.experts=[{experts[0]},{experts[1]}]"


def fails(words, folder, code, *parts):
    found, text = run(words, folder)
    assert found == code, text
    message = text[text.index("deme: ") :]
    for part in parts:
        assert part in message
    assert "Traceback" not in text
    assert len(message.strip().splitlines()) <= 3
    return message


def journal(run_dir):
    return [json.loads(line) for line in (run_dir / "evaluations.jsonl").read_text().splitlines()]


def untimed(run_dir):
    return [
        {key: value for key, value in row.items() if key != "seconds"} for row in journal(run_dir)
    ]


def read(run_dir, name):
    return json.loads((run_dir / name).read_text())


def best_of(rows):
    return min((row for row in rows if row["fraction"] == 1), key=lambda row: row["score"])


@pytest.fixture(scope="module")
def searched(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    return done(["search", given, "search=surrogate", *LOSS], folder)


def test_it_writes_the_best_weights_with_their_cost(searched):
    rows, best, cost = journal(searched), read(searched, "best.json"), read(searched, "cost.json")
    assert 7 < len(rows) <= 21  # 2 + 2N + N(N-1)/2 a round; known vectors are not asked again
    assert rows[0]["weights"] == [0.5, 0.5]
    assert best["weights"] == best_of(rows)["weights"]
    assert best["score"] == best_of(rows)["score"] < rows[0]["score"]
    assert best["ranges"] == [[0, 500], [500, 1000]]
    assert best["weights_by_name"] == {}
    images = sum(row["images"] for row in rows)
    assert images == IMAGES * len(rows)
    seconds = pytest.approx(sum(row["seconds"] for row in rows), abs=0.051)
    assert cost == {
        "evaluations": len(rows),
        "images": images,
        "seconds": seconds,
        "num_forward_passes": images * RANGES,
    }
    metrics = read(searched, "metrics.json")
    assert metrics["cell"]["method"] == "searched"
    (found,) = metrics["metrics"].values()
    assert list(metrics["metrics"]) == ["loss"]
    assert found["value"] == best["score"]
    assert found["n"] == IMAGES * RANGES
    assert (found["weights"], found["evaluations"], found["images"]) == (
        best["weights"],
        len(rows),
        images,
    )
    assert (searched / "best_so_far.png").read_bytes().endswith(b"IEND\xaeB`\x82")
    assert read(searched, "status.json")["state"] == "done"


def test_best_yaml_and_inputs_search_give_the_same_merge(searched, given, tmp_path):
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/found.yaml").write_text((searched / "best.yaml").read_text())
    one = done(["merge", given, f"inputs.search={searched}"], tmp_path)
    two = done(
        [
            "merge",
            given,
            "experiment=found",
            f"--config-dir={tmp_path / 'conf'}",
            "cell.method=found",
        ],
        tmp_path,
    )
    assert one != two
    weights = read(searched, "best.json")["weights"]
    about = [read(each, "weights/merged/deme.json") for each in (one, two)]
    assert about[0]["weights"] == about[1]["weights"] == weights
    merged = [tensors.TensorFile(each / "weights/merged" / UNET).read_all() for each in (one, two)]
    assert all(torch.equal(merged[1][name], value) for name, value in merged[0].items())


def test_killed_in_the_middle_it_goes_on_as_if_undisturbed(searched, given, tmp_path):
    words = ["search", given, "search=surrogate", *LOSS]
    expected = untimed(searched)
    for stop in (1, 9):
        program = start(words, tmp_path, SLOW)
        program.wait_for(
            lambda n=stop: any(len(journal(p.parent)) >= n for p in tmp_path.glob("runs/*/*/*/ev*"))
        )
        program.kill()
        (run_dir,) = tmp_path.glob("runs/scratch/search/*")
        before = (run_dir / "evaluations.jsonl").read_bytes()
        assert stop <= before.count(b"\n") < len(expected)
        assert not (run_dir / "best.json").exists()
    assert done(words, tmp_path) == run_dir
    kept = before[: before.rindex(b"\n") + 1]
    assert (run_dir / "evaluations.jsonl").read_bytes().startswith(kept)
    assert untimed(run_dir) == expected
    assert read(run_dir, "best.json") == read(searched, "best.json")
    assert (run_dir / "best.yaml").read_text() == (searched / "best.yaml").read_text()


def test_a_budget_is_kept_and_said(given, tmp_path):
    words = ["search", given, "search=coordinate", *LOSS, "max_images=50"]
    code, text = run(words, tmp_path)
    assert code == 0, text
    (run_dir,) = tmp_path.glob("runs/scratch/search/*")
    assert "searched 4 candidates" in text
    assert "48 of 50 images" in text
    assert read(run_dir, "cost.json")["images"] == 48
    assert read(run_dir, "best.json")["score"] == best_of(journal(run_dir))["score"]
    message = fails(
        [*words, "max_images=5"],
        tmp_path,
        2,
        "\ntype: a larger max_images=<n>",
    )
    assert "0 of 5 images" in message


def test_a_search_by_gradient_counts_its_backward_passes(given, searched, tmp_path):
    run_dir = done(
        ["search", given, "search=gradient", *LOSS, "search.max_evaluations=6"], tmp_path
    )
    rows = journal(run_dir)
    assert 1 < len(rows) <= 6
    assert all(len(row["gradient"]) == 2 for row in rows)
    assert read(run_dir, "cost.json")["num_forward_passes"] == 3 * IMAGES * RANGES * len(rows)
    start_score = journal(searched)[0]["score"]
    assert rows[0]["score"] == pytest.approx(start_score, rel=1e-5)
    assert read(run_dir, "best.json")["score"] < start_score


def test_blocks_have_weights_that_merge_applies(given, experts, tmp_path):
    words = [
        "search",
        given,
        "search=gradient",
        *LOSS,
        "granularity=block",
        "search.max_evaluations=3",
    ]
    run_dir = done(words, tmp_path)
    best = read(run_dir, "best.json")
    by_name, flat = best["weights_by_name"], best_of(journal(run_dir))["weights"]
    assert [w for row in by_name.values() for w in row] == flat
    assert best["weights"] == pytest.approx([sum(flat[i::2]) / len(by_name) for i in (0, 1)])
    assert len(set(map(tuple, by_name.values()))) > 1
    merge = done(["merge", given, f"inputs.search={run_dir}", "report=false"], tmp_path)
    merged = tensors.TensorFile(merge / "weights/merged" / UNET).read_all()
    base = tensors.TensorFile(locate("asset:digits_base") / UNET).read_all()
    low, high = (tensors.TensorFile(path / "weights/ema" / UNET).read_all() for path in experts)
    assert {f"{block_of(name)}.*" for name in base} == by_name.keys()
    for name, value in merged.items():
        a, b = by_name[f"{block_of(name)}.*"]
        exact = (
            base[name].double()
            + a * (low[name].double() - base[name])
            + b * (high[name].double() - base[name])
        )
        torch.testing.assert_close(value, exact.float(), rtol=1e-5, atol=1e-6)


def test_another_merge_method_is_searched_over_its_weights(given, tmp_path):
    run_dir = done(["search", given, "merge=ties", "search=grid", "search.step=1", *LOSS], tmp_path)
    rows = journal(run_dir)
    assert [row["weights"] for row in rows] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert len({row["score"] for row in rows}) == 4
    found = yaml.safe_load((run_dir / "best.yaml").read_text())["merge"]
    assert found["_target_"].endswith("ties")
    assert found["density"] == 0.2
    assert found["weights"] == read(run_dir, "best.json")["weights"]


def test_rungs_prune(given, tmp_path):
    run_dir = done(
        ["search", given, "search=grid", "search.step=0.5", *LOSS, "rungs=[0.5,1]", "keep=0.3"],
        tmp_path,
    )
    rows = journal(run_dir)
    halves, whole = ([row for row in rows if row["fraction"] == f] for f in (0.5, 1))
    assert len(halves) == 9
    assert 0 < len(whole) < 9
    assert {row["images"] for row in halves} == {6}
    assert {row["images"] for row in whole} == {12}
    assert read(run_dir, "best.json")["score"] == best_of(whole)["score"]
    assert read(run_dir, "cost.json")["images"] == 6 * 9 + 12 * len(whole)


@pytest.mark.parametrize("what", ["frechet", "kid"])
def test_a_search_over_generated_images(what, given, tmp_path):
    words = [
        "search",
        given,
        *TINY_SEARCH,
        "search.step=1",
        "metrics.statistics={}",
        f"objective={what}",
    ]
    run_dir = done(words, tmp_path)
    rows = journal(run_dir)
    assert len({row["score"] for row in rows}) == 4
    assert read(run_dir, "cost.json")["num_forward_passes"] == 4 * 50 * 2
    (name,) = read(run_dir, "metrics.json")["metrics"]
    assert name == {"frechet": "fd_digits", "kid": "kid_digits"}[what]


def test_the_picture_leaves_out_scores_that_are_not_finite():
    scores = [math.inf, 3.0, 2.0, math.inf, math.inf, 2.5]
    figure = best_so_far("loss", [Evaluation((0.1,), score, 1.0, 10, 0.1) for score in scores])
    dots, steps = figure.axes[0].get_lines()
    assert dots.get_xydata().tolist() == [[20, 3], [30, 2], [60, 2.5]]
    assert steps.get_xydata().tolist() == [[20, 3], [30, 2], [60, 2]]


# what only the models and the data show
IN_THE_MODELS = {"merge=ties", "merge=model_stock", "objective=frechet", "objective=wrong", "objective=loss/4", "metrics.loss.num_ranges=1001"}  # fmt: skip


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["search=gradient", "objective=frechet", "num_images=4"], ["type: objective=loss"]),
        (["search=surrogate", "merge=slerp"], ["merge=slerp", "search.low=-0.2", "\ntype: search.low=0"]),
        (["search=grid", "merge=linear", "loss_planes.points=3"], ["merge=linear", "\ntype: loss_planes.points=0"]),
        (["search=sum", "merge=linear"], ["merge=linear have the sum 1", "\ntype: merge=weighted_sum"]),
        (["search=gradient", "search.low=0", "merge=ties"], ["merge=ties", "\ntype: merge=weighted_sum"]),
        (["granularity=wrong"], ["granularity must be one of model, block, tensor; got 'wrong'"]),
        (["granularity=[block]"], ["granularity must be one of model, block, tensor; got ['block']"]),
        (["objective=wrong"], ["objective must be frechet, kid, loss, distillation, relative_distillation, loss/0, loss/1, loss/2, loss/3; got 'wrong'"]),
        (["objective=loss/4"], ["objective must be ", "got 'loss/4'"]),
        (["objective=frechet", "metrics=loss"], ["objective=frechet needs a feature extractor\ntype: metrics=own"]),
        (["merge=model_stock"], ["merge=model_stock takes no weights"]),
        (["search=grdi"], ["unknown option search=grdi; did you mean 'grid'? allowed: cma_es, coordinate, gradient, grid, sum, surrogate"]),
        (["search.step=0"], ["search.step must be a number, at least 1e-09; got 0"]),
        (["search.step=inf"], ["search.step must be a finite number; got inf"]),
        (["search=coordinate", "search.low=3"], ["CoordinateSearch: a search needs finite low < high, got low=3 high=2.0"]),
        (["search=coordinate", "search.low=abc"], ["search.low must be a number, or null; got 'abc'"]),
        (["search=coordinate", "search.points=3"], ["CoordinateSearch: points must be a whole number of at least 4, got 3"]),
        (["search=cma_es", "search.sigma=-1"], ["search.sigma must be a number, at least 1e-09; got -1"]),
        (["search=surrogate", "search.step=3"], ["SurrogateSearch: step must lie in (0, (high - low) / 3 = 0.7333], got 3"]),
        (["search=gradient", "search.max_evaluations=0"], ["search.max_evaluations must be a whole number, at least 1; got 0"]),
        (["rungs=[0.5]"], ["rungs must be", "got [0.5]"]),
        (["rungs=0.5"], ["rungs must be", "got 0.5"]),
        (["rungs=[a,1]"], ["rungs.0 must be", "got 'a'"]),
        (["rungs=null"], ["rungs must be", "got None"]),
        (["keep=0"], ["keep must be", "got 0"]),
        (["keep=most"], ["keep must be", "got 'most'"]),
        (["max_images=0"], ["max_images must be", "null", "got 0"]),
        (["max_seconds=long"], ["max_seconds must be", "null", "got 'long'"]),
        (["num_images=1"], ["num_images must be", "at least 2", "got 1"]),
        (["metrics.loss.num_ranges=1001"], ["metrics.loss: num_ranges must lie in 1..1000 (the number of timesteps), got 1001"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) and "=" in value[0] else "",
)  # fmt: skip
def test_a_slip_is_exit_2_with_one_clear_message(words, parts, given, tmp_path):
    fails(["search", given, *LOSS, *words], tmp_path, 2, *parts)
    assert not list(tmp_path.glob("runs/*/*/*/best.json"))
    if not IN_THE_MODELS & {*words}:  # the others are refused before any work
        assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("granularity", "told"),
    [("model", " 1/4 evaluations, "), ("tensor", " 1 evaluations, ")],
)
def test_progress_says_what_is_left_unless_there_is_no_end(granularity, told, given, tmp_path):
    always = "import deme.system.console as console; console.SECONDS_BETWEEN_LINES = -1"
    words = ["search", given, "search.step=1", *LOSS, f"granularity={granularity}", "max_images=24"]
    code, text = run(words, tmp_path, always)
    assert code == 0, text
    assert told in text
    assert bool(re.search(r"\d (s|min|h) left", text)) == (granularity == "model")


def test_what_a_search_found_is_of_its_merge_and_its_models(given, tmp_path):
    found = done(
        ["search", given, "search=grid", "search.step=1", "search.high=1", "merge=ties", *LOSS],
        tmp_path,
    )
    message = fails(
        ["merge", given, f"inputs.search={found}"],
        tmp_path,
        2,
        f"deme: {found} ",
    )
    assert "ties" in message
    assert "weighted_sum\ntype: the merge=... of the search" in message
    fails(["merge", given, "merge=ties", f"inputs.search={found}", "merge.weights=[0.9,0.1]"], tmp_path, 2,
          "inputs.search", "merge.weights=[0.9, 0.1]", "\ntype: one of them")  # fmt: skip
    done(["merge", given, "merge=ties", f"inputs.search={found}"], tmp_path)
    best = json.loads((found / "best.json").read_text())
    files.write_json(found / "best.json", {**best, "models": best["models"][::-1]})
    fails(["merge", given, "merge=ties", "dtype=float16", f"inputs.search={found}"], tmp_path, 2,
          f"deme: {found} ", "\ntype: the inputs.experts=[...] of the search")  # fmt: skip


def test_slices_are_drawn_of_a_finished_search_too(given, tmp_path):
    words = ["search", given, "search=surrogate", "search.rounds=1", *LOSS]
    found = done(words, tmp_path)
    before = (found / "evaluations.jsonl").read_bytes()
    assert not (found / "loss_planes.png").exists()
    assert done([*words, "loss_planes.points=3"], tmp_path) == found
    assert (found / "loss_planes.png").stat().st_size > 5_000
    rows = [json.loads(line) for line in (found / "loss_planes.jsonl").read_text().splitlines()]
    assert len(rows) == 9
    assert (found / "evaluations.jsonl").read_bytes() == before
    fails(
        [*words, "loss_planes.points=1"],
        tmp_path,
        2,
        "loss_planes.points must be 0 or at least 2",
    )
