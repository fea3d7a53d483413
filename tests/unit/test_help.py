"""Help pages, completion and flags: what they name exists, and no heavy library is loaded for them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deme.cli import completion, suite_commands
from deme.cli.app import main
from deme.cli.examples import EXAMPLES
from deme.cli.help_page import NARROW, TOPICS, command_page, overview, stage_page
from deme.cli.option_files import default_choices, first_sentence, option_files
from deme.commands import ARGUMENTS, COMMANDS, STAGES
from deme.runs import compose_stage, options
from deme.runs.config_errors import flattened
from deme.system import conf_dir

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "diffusers", "pytorch_lightning", "transformers", "scipy", "sklearn")


def pages():
    for command in STAGES:
        yield command, stage_page(command), stage_page(command, everything=True)
    for command in COMMANDS:
        page = command_page(command, ARGUMENTS[command], suite_commands.options_of(command))
        yield command, page, page


def test_the_overview_names_every_verb_once_in_narrow_lines(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    text = overview()
    for command in (*STAGES, *COMMANDS):
        assert sum(line.split()[:1] == [command] for line in text.splitlines()) == 1, command
    assert {command for commands in TOPICS.values() for command in commands} <= {*STAGES, *COMMANDS}
    assert max(map(len, text.splitlines())) <= 90


def test_every_command_has_examples_and_they_fit(monkeypatch):
    monkeypatch.setenv("COLUMNS", str(NARROW))
    for command, page, everything in pages():
        assert 3 <= len(EXAMPLES[command]) <= 5, command
        for example, _ in EXAMPLES[command]:
            assert example.split()[:2] == ["deme", command]
            assert f"  {example}" in page
        for line in everything.splitlines():
            assert len(line) <= 100 or "=" in line, line


def test_a_page_has_every_key_of_its_command_with_the_default():
    for command in STAGES:
        page = stage_page(command).split("groups and their options")[0]
        shown = {line.split("=")[0].strip(): line for line in page.splitlines() if line[:2] == "  "}
        written = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text())
        keys = {
            key: value
            for key, value in flattened(written).items()
            if key.split(".")[0] not in ("defaults", "stage", "cell")
            and not isinstance(value, dict)
        }
        for key, value in keys.items():
            assert key in shown, (command, key)
            text = shown[key].split("=", 1)[1].split("  ")[0].strip()
            if value != "???" and isinstance(value, (int, float)):
                assert yaml.safe_load(text) == value, (command, key)


def test_a_page_has_every_option_in_a_line_and_marks_the_default():
    page = stage_page("train")
    for group, default in default_choices("train").items():
        if group == "experiment":
            assert all(name in page for name in options(group) if name.endswith("finetune"))
            continue
        part = page.split(f"\n  {group}=\n")[1].split("=\n")[0].splitlines()
        named = {line[4:].split("  ")[0].strip(): line[2] for line in part if len(line) > 4 and line[:4].strip() in ("", "*")}  # fmt: skip
        for option in options(group):
            assert named[option] == ("*" if option == default else " ")
    assert "weighting.gamma=" not in page
    assert "weighting.gamma=" in stage_page("train", everything=True)


def test_options_of_other_commands_are_those_of_their_usage():
    for command in COMMANDS:
        _, _, listed = command_page(command, ARGUMENTS[command], suite_commands.options_of(command)).partition("options, with")  # fmt: skip
        named = {*suite_commands.NAMED.findall(ARGUMENTS[command])}
        shown = {line.split("=")[0].strip() for line in listed.splitlines() if "=" in line[:30]}
        assert shown <= named, command
        if command not in ("compare",):
            assert shown, command


@pytest.mark.parametrize("words", [[], ["--help"], ["train", "--help"], ["search", "--help-all"], ["plan", "-h"], ["ls", "--help"], ["completion", "bash"], ["completion", "words", "deme train o"]])  # fmt: skip
def test_help_loads_no_heavy_library(words):
    code = f"import sys; from deme.cli.app import main; code = main({words}); print(code, [n for n in {HEAVY} if n in sys.modules])"  # fmt: skip
    if words in (["train", "--help"], ["ls", "--help"]):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)  # fmt: skip
        assert done.stdout.splitlines()[-1] == "0 []"
    else:
        assert main(words) == 0


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("deme tra", ["train"]),
        ("deme ", None),
        ("deme train weighting=m", ["weighting=min_snr"]),
        ("deme train weighting=min_snr weighting.", ["weighting.gamma="]),
        ("deme train optimizer.l", ["optimizer.lr="]),
        ("deme train loss_weight.normalize=", ["loss_weight.normalize=false", "loss_weight.normalize=true"]),
        ("deme train experiment=digits/de", ["experiment=digits/deme"]),
        ("deme train --c", ["--cfg", "--config-dir"]),
        ("deme plan experiments/fas", ["experiments/fashion"]),
        ("deme ls js", ["json="]),
        ("deme completion f", ["fish"]),
        ("deme train 'open", []),
        ("deme nothing x", []),
        ("", []),
    ],
)  # fmt: skip
def test_the_last_word_is_completed(line, found):
    words = completion.candidates(line)
    assert words == found if found is not None else {*words} == {*STAGES, *COMMANDS, "completion"}


@pytest.fixture
def made(in_tmp):
    """A folder of images, a model, a suite, a finished training, search and evaluation, and one that failed."""
    for folder in ("my images", "my_model", ".hidden"):
        (in_tmp / folder).mkdir()
    (in_tmp / "mine.yaml").touch()
    found = {}
    for name in ("train", "failed", "evaluate", "search"):
        path = Path("runs", "s", "train" if name == "failed" else name, f"{name}-0123456789")
        path.mkdir(parents=True)
        state = "failed" if name == "failed" else "done"
        (path / "status.json").write_text(json.dumps({"state": state, "time": 1.0}))
        found[name] = str(path)
    return found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("deme train model=my", ["model=my images/", "model=my_model/"]),
        ("deme train data=my\\ im", ["data=my images/"]),
        ("deme doctor data=m", ["data=my images/", "data=my_model/"]),
        ("deme train model=runs/s/train/", ["model={train}"]),
        ("deme evaluate inputs.weights=ru", ["inputs.weights={train}", "inputs.weights=runs/"]),
        ("deme merge inputs.experts=[my_model,runs/s/", ["inputs.experts=[my_model,{train}", "inputs.experts=[my_model,runs/s/evaluate/", "inputs.experts=[my_model,runs/s/search/", "inputs.experts=[my_model,runs/s/train/"]),
        ("deme merge inputs.search=", ["inputs.search={search}"]),
        ("deme verify run=", ["run={evaluate}"]),
        ("deme verify paths.runs=nowhere run=my_", ["run=my_model/"]),
        ("deme compare {evaluate},ru", ["{evaluate},{evaluate}"]),
        ("deme show runs/s/train", ["{failed}", "{train}"]),
        ("deme report runs/s/train", ["{train}", "runs/s/train/"]),
        ("deme ls runs=my", ["runs=my images/", "runs=my_model/"]),
        ("deme ls json=", ["json=false", "json=true"]),
        ("deme ls s", ["s", "sort="]),
        ("deme plan mi", ["mine.yaml"]),
        ("deme publish logger=w", ["logger=wandb"]),
        ("deme publish s logger=wandb logger.m", ["logger.mode="]),
        ("deme publish s logger=wandb logger.mode=o", ["logger.mode=offline", "logger.mode=online"]),
        ("deme train logger=wandb logger.", ["logger.entity=", "logger.folder=", "logger.mode=", "logger.project="]),
        ("deme train compute.acc", ["compute.accelerator="]),
        ("deme train compute.accelerator=", ["compute.accelerator=cpu", "compute.accelerator=gpu"]),
        ("deme evaluate source=", ["source=experts", "source=images", "source=real", "source=weights"]),
    ],
)  # fmt: skip
def test_values_are_completed_by_what_is_there(line, found, made):
    assert completion.candidates(line.format(**made)) == sorted(
        each.format(**made) for each in found
    )


def test_bash_takes_the_completion(tmp_path):
    program = tmp_path / "deme"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m deme "$@"\n')
    program.chmod(0o755)
    script = r"""
eval "$(deme completion bash)"
mkdir -p 'my $(touch gone) images'
for line in "deme train weighting=m" "deme train optimizer.l" "deme tra" "deme train data=my" 'deme train data=my\ $' "deme nothing x"; do
    COMP_LINE="$line" COMP_POINT=${#line} COMPREPLY=()
    _deme
    echo "${COMPREPLY[@]}"
done"""
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)  # fmt: skip
    folder = r"my\ \$\(touch\ gone\)\ images/"
    assert done.stdout.splitlines() == ["min_snr", "optimizer.lr=", "train", folder, folder, ""]
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["train", "--cfg", "job", "-m", "seed=0,1"], ["--cfg", "without -m"]),
        (["train", "-m", "seed=0,1", "--info", "defaults"], ["--info defaults", "without -m"]),
        (["train", "--info"], ["--info", "defaults-tree", "deme train --info all"]),
        (["train", "--num_steps=3"], ["--num_steps", "type: num_steps=3"]),
        (["doctor", "--hlep"], ["did you mean '--help'"]),
        (["train", "--cfg", "seed=1"], ["--cfg", "deme train --cfg job"]),
        (["train", "-sc", "install=bash"], ["deme completion bash"]),
        (["train", "--shell-completion", "install=bash"], ["deme completion bash"]),
        (["train", "--config-dir=cnf"], ["--config-dir=cnf", "'conf'"]),
        (["train", "--config-dir", "nowhere"], ["--config-dir=nowhere"]),
        (["completion", "tcsh"], ["bash, zsh, fish"]),
        (["train", "model=my_modl"], ["model=my_modl", "'my_model'", "digits_base", "model=<folder>"]),
        (["train", "data=digitz"], ["data=digitz", "'digits'", "data=<folder>"]),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_message(words, parts, in_tmp, capsys):
    for folder in ("conf", "my_model"):
        (in_tmp / folder).mkdir()
    assert main(words) == 2
    message = capsys.readouterr().err
    for part in parts:
        assert part in message
    assert not (in_tmp / "runs").exists()


def test_a_path_that_is_not_there_names_its_neighbour(in_tmp, capsys):
    (in_tmp / "models" / "church").mkdir(parents=True)
    assert main(["train", "model=models/chuch"]) == 3
    assert "'church'" in capsys.readouterr().err


def test_the_folder_of_a_suite_is_no_model(in_tmp, capsys):
    (in_tmp / "runs/first/train/a-s0-0123456789").mkdir(parents=True)
    assert main(["train", "model=runs/first"]) == 2
    assert "type: model=runs/first/train/a-s0-0123456789" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "first"),
    [("One. Two.", "One"), ("By Ho et al. 2020. More", "By Ho et al. 2020"), ("All ... of it. B", "All ... of it")],
)  # fmt: skip
def test_the_first_sentence(text, first):
    assert first_sentence(text) == first


def test_help_of_a_verb_can_be_asked_for_first(capsys):
    assert main(["help", "ls"]) == 0
    first = capsys.readouterr().out
    assert main(["ls", "--help"]) == 0
    assert first == capsys.readouterr().out


def test_info_shows_the_option_files(in_tmp):
    words = [sys.executable, "-m", "deme", "train", "--info", "defaults", "weighting=p2"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert "weighting/p2" in done.stdout


def test_option_files_are_found_as_hydra_finds_them():
    for group in ("weighting", "experiment", "data"):
        assert sorted(option_files(group)) == options(group)
    for command in STAGES:
        needed = {"improve": ["model.path=x", "data.path=y", "out=z"]}.get(command, [])
        still_open = ("run", "out", "inputs.experts", "inputs.run")
        config = compose_stage(command, needed, still_open)
        for group, option in default_choices(command).items():
            assert group in config or option == "null", (command, group)
