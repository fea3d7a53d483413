"""`deme new-suite`: a suite file that `deme plan` takes at once; and errors that name file and row."""

from pathlib import Path

import pytest
import yaml
from PIL import Image

from deme.cli.app import main
from deme.runs import Suite
from deme.system import BadConfig


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my images").mkdir()
    for number in range(70):
        Image.new("L", (8, 8), number).save(tmp_path / "my images" / f"{number}.png")
    return tmp_path


WORDS = ["data=my images/", "model=asset:digits_base"]


def test_a_new_suite_can_be_planned_and_is_never_replaced(folder, capsys):
    assert main(["new-suite", *WORDS]) == 0
    assert "deme plan suite.yaml" in capsys.readouterr().out
    text = Path("suite.yaml").read_text()
    suite = Suite.read(Path("suite.yaml"))
    assert suite.name == "my_images"
    assert suite.settings.metrics == ("loss",)
    assert {node.row for node in suite.nodes} == {row.name for row in suite.settings.rows}
    for node in suite.nodes:
        assert node.state in ("ready", "waiting"), (node.title, node.missing_file)
    trained = {node.row: node for node in suite.nodes if node.stage == "train"}
    steps = {name: node.settings.num_steps for name, node in trained.items()}
    assert steps["finetune"] == steps["min_snr"] == 4 * steps["deme_before_merge"]
    cost = {
        row: sum(
            n.num_forward_passes
            for n in suite.nodes
            if (n.row, n.stage, n.seed) == (row, "train", 0)
        )
        for row in ("finetune_compute", "deme_before_merge", "soup", "finetune")
    }
    assert cost["finetune_compute"] == pytest.approx(cost["deme_before_merge"], rel=0.001)
    assert cost["soup"] == cost["finetune"]
    assert main(["new-suite", *WORDS]) == 2
    assert "out=" in capsys.readouterr().err
    assert Path("suite.yaml").read_text() == text
    assert main(["new-suite", *WORDS, "out=other.yaml"]) == 0
    assert yaml.safe_load(Path("other.yaml").read_text())["suite"] == "other"


def test_a_row_can_be_deleted_with_the_comparisons_that_name_it(folder):
    assert main(["new-suite", *WORDS, "out=all of it.yaml"]) == 0
    whole = yaml.safe_load(Path("all of it.yaml").read_text())
    named = {row.get("experts_of") for row in whole["rows"]} | {whole["baseline"]}
    for name in {row["name"] for row in whole["rows"]} - named:
        rows = [row for row in whole["rows"] if row["name"] != name]
        pairs = [pair for pair in whole["comparisons"] if name not in pair]
        Path("s.yaml").write_text(yaml.safe_dump({**whole, "rows": rows, "comparisons": pairs}))
        assert name not in {node.row for node in Suite.read(Path("s.yaml")).nodes}


def test_a_plan_lists_rows_in_the_order_of_the_suite(folder, capsys):
    assert main(["new-suite", *WORDS]) == 0
    rows = [row.name for row in Suite.read(Path("suite.yaml")).settings.rows]
    for words in ([], ["all=true"]):
        capsys.readouterr()
        assert main(["plan", "suite.yaml", *words]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
        listed = [line.strip("│ ").split()[0] for line in lines]
        assert list(dict.fromkeys(listed)) == rows
        assert listed == sorted(listed, key=rows.index)


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        ([], 2, "data and model"),
        (WORDS[:1], 2, "model must be given"),
        (["data=nowhere/", WORDS[1]], 3, "data=nowhere/"),
        ([WORDS[0], "model=nowhere/"], 3, "model=nowhere/"),
        ([*WORDS, "out=suite.txt"], 2, "out=suite.yaml"),
        ([*WORDS, "rows=3"], 2, "rows"),
        (["my images/"], 2, "type: deme new-suite"),
    ],
)
def test_slips_say_what_to_type_and_write_nothing(words, code, named, folder, capsys):
    assert main(["new-suite", *words]) == code
    assert named in capsys.readouterr().err
    assert not list(Path().glob("*.yaml"))
    assert not list(Path().glob("*.txt"))


KEYS = {"suite": "s", "baseline": "before", "metrics": ["loss"], "finetune_seeds": [0], "sample_seeds": [0]}  # fmt: skip


@pytest.mark.parametrize(
    ("train", "key"),
    [
        (["num_stepz=3"], "num_stepz"),
        (["method=finetunee"], "method=finetunee"),
        (["num_steps=many"], "num_steps"),
        (["model=auto", "data=own/"], "data.size="),
    ],
)
def test_a_mistake_in_an_override_names_file_row_and_key(train, key, folder):
    rows = [
        {"name": "before", "label": "before", "evaluate": []},
        {"name": "tuned", "label": "tuned", "train": train, "evaluate": []},
    ]
    Path("s.yaml").write_text(yaml.safe_dump({**KEYS, "rows": rows}))
    (node,) = (n for n in Suite.read(Path("s.yaml")).nodes if n.stage == "train")
    with pytest.raises(BadConfig) as error:
        node.settings  # noqa: B018
    assert str(error.value).startswith("s.yaml: row tuned: train: ")
    assert key in str(error.value)
