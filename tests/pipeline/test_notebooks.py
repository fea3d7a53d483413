"""The notebooks: they run, and show what is committed but for numbers and verdicts."""

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from deme.runs import Suite
from tests.notebooks import FOLDER, REPOSITORY, executed, outputs, read, shown
from tests.pipeline.program import run

NAMES = sorted(file.stem for file in FOLDER.glob("*.ipynb"))
ABSOLUTE = re.compile(r"(?<![\w.<)\]}/])(/[a-z]\w*/|[A-Z]:\\)")
METRICS = ["fd_digits", "loss", "loss/0", "loss/1", "loss/2", "loss/3"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_is_one_execution_of_this_code(name):
    notebook = read(name)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts in ([*range(1, len(counts) + 1)], [None] * len(counts))
    kinds = {kind for _, kind, _ in outputs(notebook)}
    assert kinds <= {"display_data", "execute_result", "stdout"}, "no errors and no warnings"
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 200_000


@pytest.mark.parametrize("name", NAMES)
def test_outputs_say_nothing_of_the_machine_that_made_them(name):
    texts = [
        text
        for _, _, data in outputs(read(name))
        for kind, text in data.items()
        if not kind.startswith("image")
    ]
    for text in texts:
        assert not ABSOLUTE.search(text), text
        assert len(platform.node()) < 4 or platform.node() not in text
        assert Path.home().name in ("", "root") or Path.home().name not in text


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files(name):
    for cell in read(name).cells:
        for target in re.findall(r"\]\(([^)\s]+)\)", cell.source):
            place = target.partition("#")[0]
            assert target.startswith("http") or (FOLDER / place).is_file(), target


def test_the_rule_for_absolute_paths():
    for text in ("in /tmp/x", "'/home/me/runs'", "(/root/x)", "C:\\me", "Path('/var/tmp')"):
        assert ABSOLUTE.search(text)
    for text in ("runs/python/train", "</td></tr>", "<b/>", "loss/0", "a / b", "and/or/both"):
        assert not ABSOLUTE.search(text)


def test_the_code_passes_ruff():
    for words in (["check"], ["format", "--check"]):
        subprocess.run(
            [sys.executable, "-m", "ruff", *words, "--no-cache", str(FOLDER)],
            check=True,
            cwd=REPOSITORY,
        )


def texts_of(notebook, start):
    """The texts of the outputs that begin like this."""
    texts = [data.get("text/plain", "") for _, _, data in outputs(notebook)]
    return [text for text in texts if text.startswith(start)]


def check_comparisons(notebook, metrics, num_tables):
    """Tables of paired differences, with the value of each metric within its interval."""
    tables = texts_of(notebook, "┏")
    assert len(tables) == num_tables
    for table in tables:
        lines = [line.strip("│").split("│") for line in table.splitlines() if "│" in line]
        assert [line[0].strip() for line in lines] == metrics
        for line in lines:
            value, low, high = (float(x) for x in re.findall(r"[-+]\d+\.\d+", line[3]))
            assert low <= value <= high
            assert (line[4].strip() == "not resolved") == (low <= 0 <= high)


@pytest.mark.parametrize(
    "size",
    [{"DEME_STEPS": "2", "DEME_IMAGES": "40"}, pytest.param({}, marks=pytest.mark.slow)],
)
def test_the_quickstart(tmp_path, size):
    notebook = executed("01_quickstart", tmp_path, **size)
    warnings = [data["text/plain"] for _, kind, data in outputs(notebook) if kind == "stderr"]
    assert len(warnings) == 1  # of the cell that trains, when it is executed for the first time
    assert "this base is not averaged" in warnings[0]
    again = [line for line in shown(notebook) if line[1] != "stderr"]
    assert again == shown(read("01_quickstart"))
    check_comparisons(notebook, METRICS, 3)
    trained = list((tmp_path / "runs/python/train").glob("deme-*/cost.json"))
    assert len(trained) == 4


@pytest.mark.slow
@pytest.mark.parametrize("size", [{"DEME_STEPS": "2"}, {}])
def test_your_own_images(tmp_path, size):
    notebook = executed("02_your_own_images", tmp_path, **size)
    assert shown(notebook) == shown(read("02_your_own_images"))
    check_comparisons(notebook, METRICS[1:], 2)
    images = sorted((tmp_path / "my_images").glob("*.png"))
    assert len(images) == 1000
    with Image.open(images[0]) as image:
        assert (image.size, image.mode) == ((8, 8), "L")
    assert (tmp_path / "better/model_index.json").exists()


def test_the_table_in_the_notebook_has_the_notes_of_the_demo():
    """What the demo says beside its table can be compared without running it."""
    shown_texts = [t for _, _, data in outputs(read("03_read_a_table")) for t in data.values()]
    notes = Suite.read(REPOSITORY / "experiments/digits/demo.yaml").settings.notes
    assert notes
    for note in notes:
        assert any(note in text for text in shown_texts)


@pytest.mark.slow
def test_the_table_of_the_demo(tmp_path):
    """Here of the suite that is committed; test_smoke.py reads a smaller one."""
    demo = str(REPOSITORY / "experiments/digits/demo.yaml")
    code, text = run(["reproduce", demo], tmp_path)
    assert code == 0, text
    notebook = executed("03_read_a_table", FOLDER, DEME_RUNS=str(tmp_path / "runs"))
    assert shown(notebook) == shown(read("03_read_a_table"))


@pytest.mark.slow
def test_why_decouple(tmp_path):
    notebook = executed("04_why_decouple", FOLDER, DEME_RUNS=str(tmp_path))
    assert sum("image/png" in data for _, _, data in outputs(notebook)) == 5
    numbers = json.loads((tmp_path / "forgetting.json").read_text())
    changes = [[change["value"] / change["base"] for change in row] for row in numbers["changes"]]
    assert all(row[i] < 0.01 for i, row in enumerate(changes))  # no expert is lost in its range
