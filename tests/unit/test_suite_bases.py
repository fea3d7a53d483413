"""Suites of several bases: which runs they need, made from what, and what is refused (docs/suites.md)."""

from pathlib import Path

import pytest
import yaml

from deme.commands.training_memory import memory_lines
from deme.runs import Suite, identity
from deme.runs.composed import flat
from deme.runs.names import older_name, readable_name
from deme.system import files
from deme.system.errors import BadConfig, MissingInput

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
BASES = {
    "raw": {"row": "pre", "weights": "raw"},
    "averaged": {"row": "pre"},
    "long": {"row": "longer", "label": "converged"},
}
PRE = {"name": "pre", "label": "pre", "train": ["method=pretrain", "model=digits_unet"]}
LONGER = {
    "name": "longer",
    "label": "longer",
    "starts_from": "pre",
    "train": ["method=pretrain", "num_steps=9"],
}
BEFORE = {"name": "before", "label": "before", "evaluate": []}
FINETUNE = {"name": "ft", "label": "ft", "train": [], "evaluate": []}
ROUTED = {"name": "routed", "label": "routed", "train": ["method=deme"], "experts": [0, 1], "evaluate": []}  # fmt: skip
MERGED = {
    "name": "merged",
    "label": "merged",
    "experts_of": "routed",
    "merge": ["dtype=float32"],
    "evaluate": [],
}
HEAD = {"suite": "s", "baseline": "before", "metrics": ["loss"], "finetune_seeds": [0, 1], "sample_seeds": [100, 101]}  # fmt: skip


def read(rows, folder=Path(), **keys):
    (folder / "s.yaml").write_text(yaml.safe_dump({**HEAD, **keys, "rows": rows}, sort_keys=False))
    return Suite.read(folder / "s.yaml", Path("runs"))


def several(*rows, **keys):
    return read([PRE, LONGER, BEFORE, *rows], **{"bases": BASES, "pretrain_seeds": [0, 1], **keys})


def named(nodes):
    return [node.title for node in nodes]


def finish(node, *weights):
    """Put a finished run with these weights where the node has it."""
    made = {}
    for name in weights:
        folder = node.path / "weights" / name
        files.write_text(folder / "config.json", "{}")
        files.write_bytes(folder / "model.safetensors", f"{node.title} {name}".encode())
        made[name] = files.sha256(folder)
    files.write_json(node.path / "status.json", {"state": "done", "weights": made})


# hashes of what every run of the shipped suites is called, made of and identified by, as they were
# before there were several bases; models count by their names here
KNOWN = {
    "captioned_digits/suite": "7e9875fb91552000",
    "cifar10/smoke": "fb92082af38b9969",
    "digits/smoke": "e8fbaa8afe49d62e",
    "merge_search/suite": "cf43c631fcac667d",
}


def digest(place, folder):
    lines = []
    for node in Suite.read(place, folder).nodes:
        titles = {name: [each.title for each in nodes] for name, nodes in node.inputs.items()}
        config = node._config_with(titles)
        found = identity.identity_hash(config, node.stage, titles)
        base = node.base.title if node.base else "-"
        lines.append(" ".join([node.title, older_name(flat(node.config)), found, base]))
    return files.sha256_text("\n".join(lines))[:16]


QUICK = ("digits/smoke",)
MARKED = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in KNOWN]


@pytest.mark.parametrize("name", MARKED)
def test_suites_without_bases_have_the_runs_that_they_always_had(name, tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "content_hash", str)
    assert digest(EXPERIMENTS / f"{name}.yaml", tmp_path) == KNOWN[name]


def test_rows_are_laid_out_for_every_base_and_pretraining_seed(in_tmp):
    suite = several(FINETUNE)
    assert named(suite.nodes[:4]) == [
        "pre train, seed 0",
        "pre train, seed 1",
        "longer train, seed 0",
        "longer train, seed 1",
    ]
    before = [node for node in suite.nodes if node.row == "before"]
    assert len(before) == 3 * 2 * 2
    trained = [node for node in suite.nodes if (node.row, node.stage) == ("ft", "train")]
    assert len(trained) == 3 * 2 * 2
    assert trained[0].title == "ft train, base raw, pretraining seed 0, seed 0"
    assert len([n for n in suite.nodes if (n.row, n.stage) == ("ft", "evaluate")]) == 3 * 2 * 2 * 2
    for node in (*before, *trained):
        expected = ("longer" if node.base_name == "long" else "pre", node.pretrain_seed)
        assert (node.base.row, node.base.seed) == expected
        assert node.weights == ("raw" if node.base_name == "raw" else None)
        assert node.overrides[-1] == "model=diffusers"
    (evaluated,) = {node.inputs["weights"][0] for node in suite.evaluations("ft", "long")
                    if (node.pretrain_seed, node.seed) == (1, 0)}  # fmt: skip
    assert evaluated.title == "ft train, base long, pretraining seed 1, seed 0"


def test_the_base_of_a_run_is_in_its_cell_its_name_and_its_command(in_tmp):
    suite = several(FINETUNE)
    node = next(node for node in suite.nodes if node.row == "ft")
    assert not {"base", "pretrain_seed"} & suite.nodes[0].config["cell"].keys()
    assert readable_name(flat(node.config)).endswith("-raw-p0-s0")
    for base in suite.nodes[:2]:
        finish(base, "ema", "raw")
    assert node.config["cell"]["base"] == "raw"
    assert node.config["cell"]["pretrain_seed"] == 0
    assert "+cell.base=raw +cell.pretrain_seed=0" in node.command
    runs = {n.run.path for n in suite.nodes if n.row == "ft" and n.stage == "train" and n.run}
    assert len(runs) == 2 * 2 * 2  # of the base that is not trained nothing is known
    again = next(n for n in several(FINETUNE, pretrain_seeds=[0]).nodes if n.row == "ft")
    assert again.run.path == node.run.path  # another pretraining seed moves no run


def test_a_base_takes_the_weights_that_it_names(in_tmp):
    suite = several(FINETUNE)
    for base in suite.nodes[:2]:
        finish(base, "ema", "raw")
    paths = {n.base_name: n.values.get("model.path") for n in suite.nodes if n.row == "ft" and n.pretrain_seed == 1}  # fmt: skip
    folder = suite.nodes[1].path / "weights"
    assert paths == {"raw": str(folder / "raw"), "averaged": str(folder / "ema"), "long": None}
    for node in (n for n in suite.nodes if n.row == "ft" and n.stage == "train"):
        assert node.config["model"]["path"] == node.values.get("model.path", "???")


def test_a_run_without_the_weights_that_a_base_names_is_one_message(in_tmp):
    suite = several(FINETUNE)
    for base in suite.nodes[:2]:
        finish(base, "ema")
    states = {n.base_name: n.state for n in suite.nodes if n.row == "ft" and n.stage == "train"}
    assert states == {"raw": "missing_file", "averaged": "ready", "long": "waiting"}
    node = next(n for n in suite.nodes if n.row == "ft")
    with pytest.raises(MissingInput, match=r"base raw: .* has no raw weights, only their average"):
        node.run  # noqa: B018
    assert "weights/raw" in node.command  # tables print it


def test_pretrained_by_is_a_base_without_a_name(in_tmp):
    one = read([PRE, BEFORE, FINETUNE], pretrained_by="pre")
    named_one = read([PRE, BEFORE, FINETUNE], bases={"only": {"row": "pre"}})
    seen = [
        [(n.row, n.stage, n.seed, n.overrides, n.base and n.base.row) for n in suite.nodes]
        for suite in (one, named_one)
    ]
    assert seen[0] == seen[1]
    assert {*named(one.nodes)} == {t.replace(", base only", "") for t in named(named_one.nodes)}
    seeded = read([PRE, BEFORE, FINETUNE], pretrained_by="pre", pretrain_seeds=[4])
    assert seeded.nodes[0].title == "pre train, seed 4"
    assert [n.labels for n in seeded.nodes if n.row == "ft"] == [{"pretrain_seed": 4}] * (2 + 2 * 2)


def test_a_base_may_be_a_checkpoint(in_tmp):
    bases = {"raw": {"row": "pre"}, "theirs": {"model": ["model=digits_base", "model.ema=true"]}}
    suite = read([PRE, BEFORE, FINETUNE], bases=bases, pretrain_seeds=[0, 1])
    theirs = [node for node in suite.nodes if node.base_name == "theirs"]
    assert {(n.base, n.pretrain_seed, *n.overrides[-2:]) for n in theirs} == {
        (None, None, "model=digits_base", "model.ema=true")
    }
    assert len([n for n in theirs if n.stage == "train"]) == 2
    assert len([n for n in suite.nodes if n.base_name == "raw" and n.stage == "train"]) == 4


def test_a_row_may_be_of_some_bases_or_of_none(in_tmp):
    real = {"name": "real", "label": "real", "evaluate": ["source=real"], "bases": []}
    suite = several(real, {**FINETUNE, "bases": ["long"]})
    assert [(n.base, n.labels) for n in suite.nodes if n.row == "real"] == [(None, {})] * 2
    assert {n.base_name for n in suite.nodes if n.row == "ft"} == {"long"}
    sections = {base: [row.name for row in rows] for base, rows in suite.sections}
    assert sections == {
        "raw": ["before", "real"],
        "averaged": ["before", "real"],
        "long": ["before", "real", "ft"],
    }


def test_copies_are_trained_alike_and_go_into_one_average_or_merge(in_tmp):
    copies = {"name": "copies", "label": "copies", "train": ["num_steps=7"], "copies": 4}
    soup = {**copies, "name": "soup", "average": ["average=mean"], "evaluate": []}
    merge = {"name": "of", "label": "of", "experts_of": "copies", "merge": [], "search": [], "evaluate": []}  # fmt: skip
    suite = read([BEFORE, copies, soup, merge])
    found = {(n.row, n.stage): [] for n in suite.nodes}
    for node in (node for node in suite.nodes if node.seed == 1):
        found[node.row, node.stage].append(node)
    trained = found["soup", "train"]
    assert [node.values for node in trained] == [{"seed": 1, "copy": k} for k in range(4)]
    assert trained[3].title == "soup train, copy 3, seed 1"
    assert len({tuple(node.overrides) for node in trained}) == 1
    (average,) = found["soup", "average"]
    assert average.inputs == {"run": trained}
    assert average.overrides[:2] == ["average=mean", "cell.method=soup"]
    assert [n.inputs for n in found["soup", "evaluate"]] == [{"weights": [average]}] * 2
    assert found["of", "search"][0].inputs == {"experts": found["copies", "train"]}
    assert found["of", "merge"][0].inputs["experts"] == found["copies", "train"]


def test_independent_experts_have_random_numbers_of_their_own(in_tmp):
    suite = read([BEFORE, {**ROUTED, "independent": True}])
    trained = [node for node in suite.nodes if node.stage == "train" and node.seed == 0]
    assert [n.values for n in trained] == [
        {"seed": 0, "expert": 0, "copy": 0},
        {"seed": 0, "expert": 1, "copy": 1},
    ]
    assert trained[1].title == "routed train, expert 1, seed 0"


def test_training_starts_from_the_model_of_another_row_of_the_same_base_and_seeds(in_tmp):
    again = {**ROUTED, "name": "again", "starts_from": "merged"}
    merged_again = {**MERGED, "name": "merged_again", "experts_of": "again"}
    suite = several(ROUTED, MERGED, again, merged_again)
    merges = {(n.base_name, n.pretrain_seed, n.seed): n for n in suite.nodes if (n.row, n.stage) == ("merged", "merge")}  # fmt: skip
    assert len(merges) == 3 * 2 * 2
    later = [n for n in suite.nodes if n.row in ("again", "merged_again")]
    assert {n.stage for n in later} == {"train", "merge", "evaluate"}
    for node in later:
        assert node.base is merges[node.base_name, node.pretrain_seed, node.seed]
        assert node.weights is None
    place = {node: index for index, node in enumerate(suite.nodes)}
    assert all(place[p] < place[n] for n in suite.nodes for p in n.parents)
    evaluated = suite.evaluations("merged_again", "raw")[0]
    assert {n.row for n in evaluated.ancestors} == {"pre", "routed", "merged", "again", "merged_again"}  # fmt: skip


def test_what_is_started_from_is_the_merge_else_the_average_else_what_was_trained(in_tmp):
    soup = {**FINETUNE, "name": "soup", "copies": 2, "average": []}
    rows = [
        {**FINETUNE, "name": f"from_{name}", "starts_from": name}
        for name in ("merged", "soup", "ft")
    ]
    suite = read([BEFORE, FINETUNE, ROUTED, MERGED, soup, *rows])
    bases = {n.row: n.base.title for n in suite.nodes if n.row.startswith("from_") and n.seed == 1}
    assert bases == {
        "from_merged": "merged merge, seed 1",
        "from_soup": "soup average, seed 1",
        "from_ft": "ft train, seed 1",
    }


def test_an_average_of_no_training_of_its_own_is_of_the_run_that_trained_the_base(in_tmp):
    mean = {"name": "mean", "label": "mean", "average": ["average=mean"]}
    control = {**mean, "name": "control", "evaluate": []}
    bases = {**BASES, "mean": {"row": "mean"}}
    suite = several({**mean, "experts_of": "pre"}, control, FINETUNE, bases=bases)
    averages = {(n.base_name, n.pretrain_seed): n for n in suite.nodes if n.row == "control" and n.stage == "average"}  # fmt: skip
    runs = {key: node.inputs["run"][0].title for key, node in averages.items() if key[1] == 1}
    assert runs == {
        ("raw", 1): "pre train, seed 1",
        ("averaged", 1): "pre train, seed 1",
        ("long", 1): "longer train, seed 1",
        ("mean", 1): "pre train, seed 1",
    }
    started = next(n for n in suite.nodes if n.row == "ft" and n.base_name == "mean")
    assert started.base.title == "mean average, pretraining seed 0"
    assert started.base.labels == {"pretrain_seed": 0}
    assert [len(suite.evaluations("control", base)) for base in bases] == [2 * 2] * 4
    place = {node: index for index, node in enumerate(suite.nodes)}
    assert all(place[p] < place[n] for n in suite.nodes for p in n.parents)


def test_experts_of_beside_train_are_inputs_of_the_training(in_tmp):
    student = {**FINETUNE, "name": "student", "experts_of": "routed", "starts_from": "merged"}
    suite = several(ROUTED, MERGED, student)
    trained = [n for n in suite.nodes if (n.row, n.stage) == ("student", "train")]
    assert len(trained) == 3 * 2 * 2
    for node in trained:
        where = (node.base_name, node.pretrain_seed, node.seed)
        assert [(n.row, n.expert, n.base_name, n.pretrain_seed, n.seed) for n in node.inputs["experts"]] == [
            ("routed", i, *where) for i in (0, 1)]  # fmt: skip
        assert node.base.stage == "merge"
    evaluated = suite.evaluations("student", "long")[0]
    assert [n.row for n in evaluated.inputs["weights"]] == ["student"]


def test_rounds_of_decoupling_and_distillation_are_rows(in_tmp):
    """The second round's experts start from the first student, its student from the first, too."""
    student = {**FINETUNE, "name": "student", "experts_of": "routed", "starts_from": "merged"}
    again = {**ROUTED, "name": "again", "starts_from": "student"}
    second = {**FINETUNE, "name": "second", "experts_of": "again", "starts_from": "student"}
    suite = several(second, again, student, MERGED, ROUTED)
    trained = [n for n in suite.nodes if (n.row, n.stage) == ("second", "train")]
    assert len(trained) == 3 * 2 * 2
    for node in trained:
        where = (node.base_name, node.pretrain_seed, node.seed)
        parents = [node.base, *(expert.base for expert in node.inputs["experts"])]
        assert len(parents) == 3
        for parent in parents:
            assert (parent.row, parent.stage) == ("student", "train")
            assert (parent.base_name, parent.pretrain_seed, parent.seed) == where
    evaluated = suite.evaluations("second", "raw")[0]
    assert {n.row for n in evaluated.ancestors} == {"pre", "routed", "merged", "student", "again", "second"}  # fmt: skip


def test_the_memory_of_a_training_from_a_merge_is_known_before_anything_is_trained(in_tmp):
    again = {**FINETUNE, "name": "again", "starts_from": "merged"}
    suite = several(ROUTED, MERGED, again)
    lines = list(memory_lines(suite))
    assert not [line for line in lines if "unknown" in line]
    assert [line for line in lines if "again@long" in line or "and" in line]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"bases": {**BASES, "x": {"row": "nothing"}}}, ["'nothing' is not a row"]),
        ({"bases": {**BASES, "x": {"row": "before"}}}, ["'before' must be a row with a train stage"]),
        ({"bases": {**BASES, "x": {}}}, ["base x: type row: <row that trains it>, or model:"]),
        ({"bases": {**BASES, "x": {"row": "pre", "model": ["model=y"]}}}, ["base x: type row:", "one of them"]),
        ({"bases": {**BASES, "x": {"model": ["model=y"], "weights": "raw"}}}, ["base x: weights are those"]),
        ({"bases": {**BASES, "x": {"model": ["num_steps=3"]}}}, ["base x: 'num_steps=3': only the keys of `model`"]),
        ({"bases": {**BASES, "x": {"row": "pre", "weights": "average"}}}, ["base x: weights must be one of raw, ema; got 'average'"]),
        ({"bases": {**BASES, "x": {"rows": "pre"}}}, ["base x: unknown key rows; did you mean 'row'"]),
        ({"bases": {**BASES, "a b": {"row": "pre"}}}, ["each key of bases must be a name", "'a b'"]),
        ({"bases": BASES, "pretrained_by": "pre"}, ["bases and pretrained_by", "keep one"]),
        ({"bases": {}, "pretrain_seeds": [0]}, ["pretrain_seeds needs pretrained_by"]),
        ({"pretrain_seeds": [0, 0]}, ["pretrain_seeds", "different values"]),
        ({"comparisons": [["before@raw", "before@average"]]}, ["'average' is not a base; did you mean 'averaged'? allowed: raw, averaged, long"]),
        ({"comparisons": [["before@raw", "before"]]}, ["before@raw and before: name the base of both, or of none"]),
        ({"plan": {"paired_sd": {"los": {"sampling": 1, "finetuning": 1}}}}, ["'los' is not a metric of the suite; did you mean 'loss'"]),
        ({"plan": {"paired_sd": {"loss@rav": {"sampling": 1, "finetuning": 1}}}}, ["loss@rav: 'rav' is not a base; did you mean 'raw'"]),
    ],
)  # fmt: skip
def test_slips_in_the_keys_of_bases_are_one_message(change, parts, in_tmp):
    with pytest.raises(BadConfig) as raised:
        several(FINETUNE, **change)
    assert "s.yaml, line " in str(raised.value)
    for part in parts:
        assert part in str(raised.value)


SOUP = {"name": "soup", "label": "soup", "train": [], "copies": 3}


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([{**BEFORE, "name": "x", "bases": ["rau"]}], ["row x: bases: 'rau' is not a base; did you mean 'raw'"]),
        ([{**BEFORE, "name": "x", "copies": 2}], ["row x: copies needs a train stage"]),
        ([{**BEFORE, "name": "x", "starts_from": "before"}], ["row x: starts_from needs a train stage"]),
        ([{**FINETUNE, "name": "x", "copies": 1}], ["row x: copies must be a whole number, at least 2; got 1"]),
        ([{**ROUTED, "name": "x", "copies": 2}], ["row x: copies are of one model, and experts are several"]),
        ([{**SOUP, "evaluate": []}], ["row soup: evaluate measures one model, and soup trains 3", "type merge: []"]),
        ([SOUP, {**BEFORE, "name": "x", "experts_of": "soup"}], ["row x: evaluate measures one model, and soup trains 3"]),
        ([{**FINETUNE, "name": "x", "independent": True}], ["row x: independent is about experts"]),
        ([{**SOUP, "average": [], "merge": []}], ["row soup: an average of all models leaves one, and nothing to merge"]),
        ([{**SOUP, "search": [], "average": []}], ["row soup: a mixture is of the snapshots of one model, and this row has copies"]),
        ([ROUTED, {**FINETUNE, "name": "x", "experts_of": "routed", "merge": []}], ["row x: experts_of with train gives the experts", "leave out merge"]),
        ([ROUTED, {**ROUTED, "name": "x", "experts_of": "routed"}], ["row x: experts_of with train", "leave out experts"]),
        ([ROUTED, {**BEFORE, "name": "x", "experts_of": "routed"}], ["row x: evaluate measures one model, and routed trains 2"]),
        ([{**FINETUNE, "name": "x", "starts_from": "before"}], ["row x: starts_from: 'before' makes no model"]),
        ([{**FINETUNE, "name": "x", "starts_from": "routed"}, ROUTED], ["row x: starts_from: 'routed' trains several models"]),
        ([{**FINETUNE, "name": "x", "starts_from": "y"}], ["row x: starts_from: 'y' is not a row"]),
        ([{**FINETUNE, "name": "x", "starts_from": "x"}], ["rows x wait for each other"]),
        ([{**FINETUNE, "name": "x", "starts_from": "y"}, {**FINETUNE, "name": "y", "starts_from": "x"}],
         ["wait for each other: look at their experts_of, search_of and starts_from"]),
        ([{**FINETUNE, "name": "x", "starts_from": "pre"}], ["'pre' makes a base, and row x names it in starts_from"]),
        ([{**ROUTED, "bases": ["raw"]}, MERGED], ["row merged: experts_of: 'routed' is not laid out for averaged, long"]),
        ([ROUTED, {**MERGED, "bases": []}], ["row merged: experts_of: 'routed' starts from a base, and this row from none"]),
        ([{"name": "x", "label": "x", "average": [], "bases": []}], ["row x: average needs models"]),
    ],
)  # fmt: skip
def test_slips_in_rows_are_one_message(rows, parts, in_tmp):
    with pytest.raises(BadConfig) as raised:
        several(*rows)
    assert "s.yaml, line " in str(raised.value)
    for part in parts:
        assert part in str(raised.value)


def test_the_baseline_is_needed_for_every_base(in_tmp):
    rows = [PRE, LONGER, {**BEFORE, "bases": ["raw"]}, FINETUNE]
    with pytest.raises(BadConfig, match="'before' is not laid out for averaged, long, and ft is"):
        read(rows, bases=BASES)
    with pytest.raises(BadConfig, match="row ft: bases: the suite has no `bases`"):
        read([BEFORE, {**FINETUNE, "bases": []}])
    with pytest.raises(BadConfig, match="'long' is not a base: the suite has no `bases`"):
        read([BEFORE, {**FINETUNE, "bases": ["long"]}])
    with pytest.raises(BadConfig, match="ft and x have no base in common"):
        several({**FINETUNE, "bases": ["raw"]}, {**FINETUNE, "name": "x", "bases": ["long"]}, comparisons=[["ft", "x"]])  # fmt: skip


def test_the_example_of_the_documentation_is_a_suite(in_tmp):
    page = (EXPERIMENTS.parent / "docs" / "suites.md").read_text()
    (example,) = (b.partition("```")[0] for b in page.split("```yaml\n") if "\nbases:" in b)
    (in_tmp / "example.yaml").write_text(example)
    suite = Suite.read(in_tmp / "example.yaml")
    assert {node.base_name for node in suite.nodes} == {None, "raw", "averaged", "converged"}
    copies = [node for node in suite.nodes if node.copy is not None and node.expert is None]
    assert len(copies) == 4 * 3 * 3 * 3
    starts = {node.base.title for node in suite.nodes if node.row == "pretrain_long"}
    assert starts == {f"pretrain train, seed {seed}" for seed in range(3)}
