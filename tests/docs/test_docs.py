"""The pages of docs/: generated parts are current, links lead somewhere, code and commands work."""

import ast
import csv
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from deme.cli import suite_commands
from deme.cli.app import COMMANDS, STAGES, main
from deme.runs import expand_path_shortcut
from deme.runs.config_errors import flattened
from deme.runs.settings import SETTINGS
from deme.system.paths import PACKAGE, conf_dir

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_SHIPPED = {"soft_min_snr", "unit_length", "absolute", "median", "found"}  # made by the reader


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def command_lines() -> list[tuple[str, list[str]]]:
    """Every `deme ...` line of a block without a language, with $OWN filled in."""
    found = []
    for page in PAGES:
        for block in code_blocks(page, ""):
            block = block.replace("\\\n", " ")
            own = re.search(r'^OWN="(.*)"$', block, re.MULTILINE)
            for line in block.splitlines():
                line = line.replace("$OWN", own[1] if own else "").strip()
                line = re.sub(r"<([^>]*)>", lambda m: m[1].replace(" ", "_"), line)
                if match := re.search(r"(?:^|-m )(deme (?!\.\.\.).*)$", line):
                    words = shlex.split(match[1], comments=True)
                    found.append((page.name, words[1:]))
    return found


def settings_in_text() -> list[tuple[str, str]]:
    """Every `<key>.<key>=<value>` in running text, with its page."""
    found = re.compile(r"[\s`]((?:[a-z_0-9]+\.)+[a-z_0-9]+)=")
    return [
        (page.name, key)
        for page in PAGES
        for code in re.findall(r"(`[^`\n]+`)", re.sub(r"(?s)^```.*?^```", "", page.read_text()))
        for key in found.findall(code)
    ]


def test_settings_in_running_text_exist():
    known = set()
    for file in conf_dir().rglob("*.yaml"):
        group = "" if file.parent == conf_dir() else f"{file.parent.name}."
        known |= {f"{group}{key}" for key in flattened(yaml.safe_load(file.read_text()))}
    assert "merge.trim" in known
    assert settings_in_text()
    ours = [(page, key) for page, key in settings_in_text() if not key.startswith("hydra.")]
    wrong = {(page, key) for page, key in ours if key not in known}
    assert not wrong


def test_generated_pages_are_up_to_date():
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_tables_of_results_show_the_numbers_of_the_suites_csv(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    results_table = importlib.import_module("result_tables").results_table
    wanted = "suite: experiments/digits\nrows: [real, snr_plus_one]\ncolumns:\n"
    columns = "  a: mean fd_digits\n  b: both fd_digits\n  c: verdict loss\n  d: compute\n"
    lines = [
        [cell.strip() for cell in line.split("|")[2:-1]]
        for line in results_table(wanted + columns).splitlines()[2:]
    ]
    with (ROOT / "experiments" / "digits" / "results" / "digits.csv").open() as file:
        row = next(x for x in csv.DictReader(file) if x["row"] == "snr_plus_one")
    assert lines[0][1:] == ["", "", "0"]  # real data has no difference to the baseline
    mean, both, verdict, compute = lines[1]
    assert float(mean.split()[0]) == round(float(row["mean"]), 2)
    numbers = [float(text) for text in re.findall(r"[+-][\d.]+", both)]
    assert numbers == [round(float(row[key]), 2) for key in ("difference", "low", "high")]
    assert both.endswith(", worse")
    assert verdict == "worse"
    assert compute == "1.54M"
    with pytest.raises(ValueError, match="no_such_row"):
        results_table(wanted.replace("real", "no_such_row") + columns)


def test_tables_of_comparisons_show_what_the_suite_wrote(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    results_table = importlib.import_module("result_tables").results_table
    wanted = (
        "suite: experiments/averaging\ncomparisons: [[merged, routed], [routed, soup]]\ncolumns:\n"
    )
    columns = "  a: fd_digits@averaged\n  b: loss@converged\n"
    lines = [
        [cell.strip() for cell in line.split("|")[3:-1]]
        for line in results_table(wanted + columns).splitlines()[2:]
    ]
    with (ROOT / "experiments" / "averaging" / "results" / "averaging.csv").open() as file:
        mean = {(x["row"], x["metric"], x["base"]): float(x["mean"]) for x in csv.DictReader(file)}
    for line, (row, other) in zip(lines, (("merged", "routed"), ("routed", "soup")), strict=True):
        for text, (metric, base), places in zip(
            line, (("fd_digits", "averaged"), ("loss", "converged")), (2, 5), strict=True
        ):
            difference = mean[row, metric, base] - mean[other, metric, base]
            assert float(text.split()[0]) == pytest.approx(difference, abs=0.51 * 10**-places)
            assert text.split(", ")[-1] in ("better", "worse", "not resolved")


def anchors(page: Path) -> set[str]:
    text = page.read_text()
    titles = re.findall(r"^#+ (.*?)(?: \{.*)?$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", t).strip().lower().replace(" ", "-") for t in titles}
    return slugs | set(re.findall(r"\{ #([\w-]+) \}", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_pages_and_anchors(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_pages_that_the_code_names_exist():
    """docs/<page>.md#<anchor> in comments and docstrings."""
    folders = ("deme", "tests", "benchmarks", "docs", "conf")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.[py]*[yl]")]
    named = {
        (page, anchor): file
        for file in files
        for page, anchor in re.findall(r"docs/([\w-]+\.md)(?:#([\w-]+))?", file.read_text())
    }
    assert len(named) > 10
    for (page, anchor), file in named.items():
        assert (ROOT / "docs" / page).is_file(), f"{file} names docs/{page}"
        assert not anchor or anchor in anchors(ROOT / "docs" / page), f"{file}: {page}#{anchor}"


def test_what_scripts_import_exists():
    """The programs of benchmarks/ and experiments/ that no test runs."""
    found = 0
    for file in [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("deme"):
                module = importlib.import_module(node.module)
                for name in (alias.name for alias in node.names):
                    found += 1
                    known = hasattr(module, name) or find_spec(f"{node.module}.{name}")
                    assert known, f"{file}: {node.module} has no {name}"
    assert found > 50


def test_files_that_the_main_path_names_exist():
    text = (ROOT / "docs" / "main-path.md").read_text()
    for name in re.findall(r"`(deme/[\w/]+\.py)`", text):
        assert (ROOT / name).is_file(), name
    for file, function in re.findall(r"\*\*\[`(deme/[\w/]+\.py)`\]\(\S+\): `(?:\w+\.)?(\w+)", text):
        assert re.search(rf"\b(def|class) {function}\b", (ROOT / file).read_text()), function


@pytest.mark.slow  # test_api.py makes the same calls, smaller
def test_python_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in code_blocks(ROOT / "docs" / "api.md", "python"):
        exec(compile(block, "docs/api.md", "exec"), {})
    assert (tmp_path / "grid.png").stat().st_size > 0


def test_the_example_of_a_suite_is_planned_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = code_blocks(ROOT / "docs" / "suites.md", "yaml")[:1]
    Path("suite.yaml").write_text(example)
    shutil.copytree(PACKAGE / "assets" / "digits_base", "my_model")
    Path("my_images").mkdir()
    for index in range(4):
        Image.new("L", (8, 8), 10 * index).save(f"my_images/{index}.png")
    assert main(["plan", "suite.yaml"]) == 0
    assert "deme_uniform" in capsys.readouterr().out


def test_yaml_examples_are_valid():
    for page in PAGES:
        for block in code_blocks(page, "yaml"):
            assert yaml.safe_load(block), page


@pytest.mark.parametrize(("page", "words"), command_lines(), ids=lambda value: str(value)[:60])
def test_commands_exist_and_compose(page, words):
    command, *rest = words
    assert command in (*STAGES, *COMMANDS), page
    if command not in SETTINGS or "-m" in rest or "..." in rest or "--config-dir=cfg" in rest:
        return
    if any(name in word for word in rest for name in NOT_SHIPPED):
        return
    words = [word for word in rest if "=" in word] if command == "publish" else rest
    if command == "reproduce":
        words = [word for word in rest if suite_commands.GROUP.match(word)]
    overrides = [part for word in words for part in expand_path_shortcut(word)]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        compose(command, overrides, return_hydra_config=True)
