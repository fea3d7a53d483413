"""What somebody else made, a run directory or a suite, runs no code here: canaries in every place that a command reads."""

import ast
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

import deme
from deme.report.model_card import PAPER
from deme.runs import Run, compose_stage, trusted
from deme.runs.run import HEAD
from deme.system import BadConfig, files
from deme.system.paths import PACKAGE
from tests.pipeline.program import TINY_EVALUATE, TINY_TRAIN, run
from tests.pipeline.test_errors import fails

BASE = PACKAGE / "assets" / "digits_base"
CANARY = """
from pathlib import Path
Path({place!r}).touch()
class Thing:
    def __init__(self, **given): self.given = given
    def __call__(self, snr): return snr
"""
TINY = [*TINY_EVALUATE, "metrics=loss"]
FEW = ["num_steps=1", "batch_size=16", "passport.num_images=16", "progress.preview.num_images=1",
       "progress.preview.num_inference_steps=2"]  # fmt: skip
MAKE = {"_target_": "os.makedirs", "name": "canary"}
PICKLE = {"_target_": "deme.data.cifar10.pickle.loads", "data": b"cos\nmkdir\n(Vcanary\ntR."}
DIGITS = "deme.data.digits.load_digits"
FORMS = {  # what stands for an option or one of its arguments
    "a package": {"_target_": "canary_pkg.Thing"},
    "the standard library": MAKE,
    "what a module of deme imports": PICKLE,
    "a function of deme": {"_target_": "deme.system.files.write_text", "text": ""},
    "an argument": {"_target_": DIGITS, "cache": {"_target_": "canary_pkg.Thing"}},
    "an argument of an argument": {"_target_": DIGITS, "cache": [{"a": MAKE}]},
    "an interpolation": {**MAKE, "_target_": "${oc.env:DEME_CANARY}"},
    "an interpolation of the option": {"_target_": "${.x}", "x": "canary_pkg.Thing"},
    "white space": {"_target_": " deme.data.digits.load_digits"},
    "no name": {"_target_": ""},
}
WHERE = "import os, sys; sys.path.insert(0, os.getcwd()); os.environ['DEME_CANARY'] = 'os.mkdir'\n"


def no_canary(folder):
    assert not list(Path(folder).rglob("canary"))


def write_canary(folder):
    (folder / "canary_pkg").mkdir()
    (folder / "canary_pkg/__init__.py").write_text(CANARY.format(place=str(folder / "canary")))


ABOUT = {"range": None, "num_timesteps": 1000, "num_images": 10, "base": None, "ema": True}


def write_run(place: Path, stage: str, config: dict, about=ABOUT, **more: object) -> Path:
    """A finished run as its maker writes it; the seal of config.yaml fits whatever is in it."""
    weights = {}
    if stage == "train":
        folder = Path(shutil.copytree(BASE, place / "weights/ema"))
        files.write_json(folder / "deme.json", about)
        weights = {"ema": files.sha256(folder)}
    body = yaml.safe_dump(config, sort_keys=False)
    head = HEAD.format(identity=files.sha256_text(stage), digest=files.sha256_text(body))
    files.write_text(place / "config.yaml", f"{head}\n{body}")
    state = {"state": "done", "pid": 1, "time": 0.0, "seconds": 1.0, "weights": weights}
    files.write_json(place / "status.json", state)
    record = {"deme": "0", "python": "3", "versions": {}, "git": None, "directory": ".", "inputs": {}, "command": []}  # fmt: skip
    files.write_json(place / "run.json", record)
    for name, value in more.items():
        files.write_json(place / f"{name}.json", value)
    return place


def evil(config, **options):
    """A config with other options: data=..., or metrics__features={...}."""
    config = json.loads(json.dumps(config))
    for place, value in options.items():
        node, (*parents, last) = config, place.split("__")
        for name in parents:
            node = node[name]
        node[last] = value
    return config


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(deme.__file__).parents[1]), str(tmp_path)]))  # fmt: skip
    write_canary(tmp_path)
    return tmp_path


METRICS = {
    "cell": {"suite": "scratch"},
    "metrics": {"loss": {"value": 0.1, "n": 2, "better": "lower", "reference": "x", "implementation": "y"}},
}  # fmt: skip
TRAINED = dict.fromkeys(("data", "model", "weighting", "timesteps", "ranges", "balancing", "method", "optimizer", "learning_rate", "ema"), FORMS["a package"])  # fmt: skip


def evaluation(place, **options):
    config = compose_stage("evaluate", TINY, seed=0)
    return write_run(place, "evaluate", evil(config, **options), metrics=METRICS, replicates={"loss": [0.1, 0.2]})  # fmt: skip


def training(place, **options):
    return write_run(place, "train", evil(compose_stage("train", []), **options))


def test_verbs_that_look_at_a_run_build_nothing(here):
    """Every option of these runs is a canary."""
    train = training(here / "theirs/train/x", **TRAINED)
    lines = [{"step": i, "task_weight/0": 1.0, "task_weight/1": 2.0} for i in (1, 2)]
    files.write_text(train / "metrics.jsonl", "".join(json.dumps(each) + "\n" for each in lines))
    files.write_json(train / "weighting.json", {"ranges": ["[0, 1)", "[1, 2)"]})
    slots = dict.fromkeys(("data", "model", "sampler", "prompts"), FORMS["a package"])
    features = {"digits": FORMS["a package"]}
    for name in ("a", "b"):
        evaluation(here / f"theirs/evaluate/{name}", **slots, metrics__features=features)
    for words in (
        ["compare", "theirs/evaluate/a", "theirs/evaluate/b"],
        ["publish", "theirs", "logger=csv"],
        ["export", "run=theirs/train/x", "out=exported"],
        ["sample", "run=theirs/train/x", "num_images=1", "sampler.num_inference_steps=2"],
        ["analyze", "figure=task_weights", "run=theirs/train/x"],
        ["merge", "inputs.experts=[theirs/train/x]", "plan=true"],
        ["doctor", "model=theirs/train/x"],
        ["train", "model=theirs/train/x", *FEW],
        ["search", "inputs.experts=[theirs/train/x]", "objective=loss", "num_images=4", "search.step=1"],
        ["evaluate", "inputs.weights=theirs/train/x", *TINY],
    ):  # fmt: skip
        code, text = run(words, here, WHERE)
        assert code == 0, (words, text)
        no_canary(here)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_refused_before_anything_is_imported(here, monkeypatch, form):
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setenv("DEME_CANARY", "os.makedirs")
    for make in (deme.runs.instantiate, deme.runs.partial, deme.runs.accepted_arguments):
        with pytest.raises(BadConfig, match="its package is not trusted") as caught:
            make(FORMS[form])
        # nobody is told to trust what can run anything
        pythons = re.findall(r"_target_=(os|builtins|subprocess)\.", str(caught.value))
        assert ("trust=" in str(caught.value)) != bool(pythons)
    no_canary(here)


def test_verify_refuses_what_it_would_have_to_build(here):
    argument = {"_target_": DIGITS, "cache": FORMS["a package"]}
    for name, slots in {
        "data": {"data": FORMS["a package"]},
        "argument": {"data": argument},
        "sampler": {"sampler": FORMS["a package"]},
        "features": {"metrics__features": {"digits": FORMS["a package"]}},
    }.items():
        place = evaluation(here / f"theirs/evaluate/{name}", **slots)
        fails(["verify", f"run={place}"], here, 2, "trust=canary_pkg", patch=WHERE)
        no_canary(here)


def suite_file(folder, rows, **more):
    head = {"suite": "s", "baseline": "before", "metrics": ["loss"], "finetune_seeds": [0], "sample_seeds": [1]}  # fmt: skip
    before = {"name": "before", "label": "before", "evaluate": TINY}
    suite = {**head, "results": "results", "rows": [before, *rows], **more}
    (folder / "s.yaml").write_text(yaml.safe_dump(suite))


@pytest.mark.parametrize(
    "key",
    ["weighting", "optimizer", "ema", "method", "data", "model"],
)
def test_a_suite_is_looked_at_and_not_reproduced(here, key):
    train = [*TINY_TRAIN, f"{key}._target_=canary_pkg.Thing"]
    suite_file(here, [{"name": "row", "label": "row", "train": train}])
    for command in ("plan", "table"):
        code, text = run([command, "s.yaml"], here, WHERE)
        assert code == 0, text
        no_canary(here)
    if key == "weighting":
        code, text = run(["reproduce", "s.yaml", "jobs=2"], here, WHERE)
        assert code == 2, text
        assert "trust=canary_pkg" in text
        no_canary(here)


def test_a_balancing_and_a_search_whose_cost_would_be_asked_for(here):
    train = [*TINY_TRAIN, "method=ant", "balancing._target_=canary_pkg.Thing"]
    suite_file(here, [{"name": "row", "label": "row", "train": train}])
    code, text = run(["plan", "s.yaml"], here, WHERE)
    assert code == 0, text
    no_canary(here)
    row = {
        "name": "row",
        "label": "row",
        "train": [*TINY_TRAIN, "method=deme"],
        "experts": [0, 1],
        "search": ["search._target_=canary_pkg.Thing", "metrics=loss", "inputs.experts=null"],
    }
    suite_file(here, [row])
    fails(["plan", "s.yaml"], here, 2, "trust=canary_pkg", patch=WHERE)
    no_canary(here)


@pytest.mark.parametrize(
    "override",
    [
        "hydra.searchpath=[pkg://canary_pkg]",
        "+hydra.callbacks.x._target_=canary_pkg.Thing",
        "hydra/launcher=joblib",
        "+trust=[canary_pkg]",
        "trust=canary_pkg",
        " ++ trust=canary_pkg",
        "paths.runs=/elsewhere",
        "paths.cache=elsewhere",
        "logger.folder=/elsewhere",
        "paths=other",
        "~paths",
        "suite=other",
        "stage=train",
    ],
)
def test_what_is_the_users_is_not_a_suites_to_set(here, override):
    row = {"name": "row", "label": "row", "train": [*TINY_TRAIN, override]}
    suite_file(here, [row])
    for command in ("plan", "reproduce"):
        fails([command, "s.yaml"], here, 2, "s.yaml, line", "a suite may not set ", patch=WHERE)
    suite_file(here, [], common={"evaluate": [override]})
    fails(["table", "s.yaml"], here, 2, "s.yaml, line", "a suite may not set ", patch=WHERE)
    no_canary(here)


@pytest.mark.parametrize(
    "override",
    [
        "+experiment@metrics.statistics=../../outside",
        "+experiment@cell.x=../outside",
        "experiment=../outside",
        "model@paths=/outside",
    ],
)
def test_a_suite_names_no_option_file_outside_of_conf(here, override):
    (here / "outside.yaml").write_text("paths: {cache: elsewhere}\n")
    suite_file(here, [{"name": "row", "label": "row", "evaluate": [*TINY_EVALUATE, override]}])
    for command in ("plan", "reproduce"):
        fails([command, "s.yaml"], here, 2, "is a path, not an option of conf/", patch=WHERE)


@pytest.mark.parametrize("package", ["builtins", "os.path", "subprocess"])
def test_pythons_own_library_cannot_be_trusted(here, package):
    words = ["train", *TINY_TRAIN, "data._target_=builtins.exec", f"trust={package}"]
    fails(words, here, 2, f"{package} is part of Python itself", patch=WHERE)


@pytest.mark.parametrize(
    "override",
    [
        "experiment=../../theirs/evil",
        "experiment=digits/../../../theirs/evil",
        "+experiment=/theirs/evil",
        "data@model=[digits,../theirs/evil]",
        "~inputs",
        "inputs=null",
    ],
)
def test_an_option_of_a_suite_is_one_of_conf(here, override):
    """Hydra would read any YAML file, which sets what the suite itself may not."""
    suite_file(here, [{"name": "row", "label": "row", "train": [*TINY_TRAIN, override]}])
    for command in ("plan", "table", "reproduce"):
        fails([command, "s.yaml"], here, 2, "s.yaml, line", patch=WHERE)
    assert not (here / "runs").exists()


@pytest.mark.parametrize("target", [["a"], {"a": 1}, 3, None])
def test_a_target_that_is_no_text_is_refused(here, target):
    place = evaluation(here / "theirs/evaluate/x", data={"_target_": DIGITS, "cache": {"_target_": target}})  # fmt: skip
    fails(["verify", f"run={place}"], here, 2, "_target_ must be a text", patch=WHERE)


def test_verify_downloads_nothing(here):
    """What a run says of its data set is read, and not fetched to where it says."""
    data = {"_target_": "deme.data.cifar10.load_cifar10", "root": str(here / "elsewhere"), "download": True}  # fmt: skip
    place = evaluation(here / "theirs/evaluate/x", data=data)
    patch = (
        f"{WHERE}\nimport urllib.request\nurllib.request.urlopen = lambda *_: print('fetched')\n"
    )
    code, text = run(["verify", f"run={place}"], here, patch)
    assert code in (2, 3, 4), text
    assert "fetched" not in text
    assert not (here / "elsewhere").exists()


@pytest.mark.parametrize("part", ["../../../conf", "./unet", "/tmp/x", "a/b", "..", ""])
def test_a_part_of_a_pipeline_is_a_folder_in_it(here, part):
    """Parts are copied: out of the run, or over the merged weights."""
    base = Path(shutil.copytree(BASE, here / "theirs"))
    index = json.loads((base / "model_index.json").read_text())
    files.write_json(base / "model_index.json", {**index, part: ["a", "b"]})
    for words in (
        ["merge", "model=theirs/", f"inputs.experts=[{BASE}]"],
        ["doctor", "model=theirs/"],
    ):
        fails(words, here, 4, "model_index.json is damaged", "a name of at most", patch=WHERE)


@pytest.mark.parametrize("name", ["samples.png", "differences.png"])
def test_a_table_replaces_no_picture_that_is_none_of_its_own(here, name):
    (here / name).write_bytes(b"my picture")
    suite_file(here, [], results=".")
    fails(["table", "s.yaml"], here, 2, f"{name} is not a picture of a table", "type: results=")
    assert (here / name).read_bytes() == b"my picture"
    from deme.report import figures

    (here / name).write_bytes(figures.png(figures.Figure()))
    code, text = run(["table", "s.yaml"], here)  # one that a killed command left
    assert code == 0, text


@pytest.mark.parametrize("name", ["README.md", "data.csv", "paper.tex"])
def test_a_table_replaces_no_file_that_is_none(here, name):
    """A suite names the folder and the file; what lies there may be its user's work."""
    (here / name).write_text("my work")
    suite_file(here, [], results=".", suite=name.partition(".")[0])
    fails(["table", "s.yaml"], here, 2, f"{name} is not a table", "type: results=<another folder>")
    assert (here / name).read_text() == "my work"
    for _ in range(2):  # a table is replaced
        code, text = run(["table", "s.yaml", f"results={here / 'own'}"], here)
        assert code == 0, text
    assert (here / "own" / f"{name.partition('.')[0]}.md").is_file()


TYPED = {
    "train": ["weighting._target_=canary_pkg.Thing", *FEW],
    "merge": ["merge._target_=canary_pkg.Thing", f"inputs.experts=[{BASE}]"],
    "search": ["search._target_=canary_pkg.Thing", f"inputs.experts=[{BASE}]"],
    "evaluate": ["sampler._target_=canary_pkg.Thing", *TINY],
    "sample": ["sampler._target_=canary_pkg.Thing", f"run={BASE}"],
    "stats": ["data._target_=canary_pkg.Thing"],
    "analyze": ["figure._target_=canary_pkg.Thing"],
    "doctor": ["model=diffusers", f"model.path={BASE}", "model._target_=canary_pkg.Thing"],
    "improve": [f"model={BASE}/", "data=digits", "out=better", "data._target_=canary_pkg.Thing"],
}


@pytest.mark.parametrize("command", TYPED)
def test_commands_that_build_say_how_to_trust_a_package(here, command):
    fails([command, *TYPED[command]], here, 2, "canary_pkg.Thing", "trust=canary_pkg", patch=WHERE)
    no_canary(here)
    assert not (here / "runs").exists()
    fails([command, *TYPED[command], "+trust=other_pkg"], here, 2, "trust=canary_pkg", patch=WHERE)
    no_canary(here)


def test_a_trusted_package_runs(here):
    """So the canaries above could have sung."""
    code, text = run(["train", *TYPED["train"], "trust=canary_pkg"], here, WHERE)
    assert code == 0, text
    assert (here / "canary").exists()


def test_a_searchs_merge_and_a_frozen_trust_are_not_believed(here):
    """best.json and config.yaml are a run's own words."""
    merged = {"weights": [1.0], "score": 1.0, "merge": FORMS["a package"]}
    search = evil(compose_stage("search", [f"inputs.experts=[{BASE}]"]), search=FORMS["a package"])
    place = write_run(here / "theirs/search/x", "search", search, best=merged)
    words = ["merge", f"inputs.experts=[{BASE}]", f"inputs.search={place}"]
    fails(words, here, 2, "merge", patch=WHERE)
    config = evil(compose_stage("evaluate", TINY), data=FORMS["a package"], trust=["canary_pkg"])
    place = write_run(
        here / "theirs/evaluate/x", "evaluate", config, metrics=METRICS, replicates={}
    )
    fails(["verify", f"run={place}"], here, 2, "trust", patch=WHERE)
    no_canary(here)


HTML = "<script>alert(1)</script> | [x](https://example.org) `y` **z**"


def test_a_card_shows_what_a_run_says_as_text(here):
    option = {"_target_": f"a.{HTML}", "given": HTML, "path": f"somewhere/`{HTML}`"}
    config = evil(compose_stage("train", []), weighting=option, data=option, cell__data=HTML,
                  method={**option, "list": ["`\n\n# no heading\n\n"]})  # fmt: skip
    about = {**ABOUT, "base": f"0`{HTML}", "range": [0, 5]}
    train = write_run(here / "theirs/train/`<b>x", "train", config, about)
    made = json.loads((train / "run.json").read_text())
    made |= {
        "deme": HTML,
        "versions": {"torch": HTML},
        "git": {"commit": f"`{HTML}", "dirty": True},
    }
    files.write_json(train / "run.json", made)
    sampler = {"_target_": "x.DDIM", "skip_type": "uniform", "num_inference_steps": 7, "eta": "0)\nimport os\n(",
               "timestep_spacing": 'x"); __import__("os").system("touch canary") #'}  # fmt: skip
    config = evil(compose_stage("evaluate", TINY), sampler=sampler)
    metric = {
        "value": 0.1,
        "n": 2,
        "better": "lower",
        "reference": f"a\n\n{HTML}",
        "implementation": HTML,
    }
    metrics = {"cell": {}, "metrics": {HTML.replace("/", ""): metric}}
    evaluate = write_run(here / "theirs/evaluate/x", "evaluate", config, metrics=metrics)
    weights = json.loads((train / "status.json").read_text())["weights"]["ema"]
    files.write_json(evaluate / "run.json", {**made, "inputs": {"weights": {"x": weights}}})
    code, text = run(["export", f"run={str(train)!r}", "out=exported"], here)
    assert code == 0, text
    front, _, page = (here / "exported/README.md").read_text()[4:].partition("\n---\n")
    assert yaml.safe_load(front)["tags"] == ["diffusers", "deme", "decouple-then-merge"]
    tokens = MarkdownIt("commonmark").enable("table").parse(page)
    every = [*tokens, *(child for token in tokens for child in token.children or [])]
    kinds = [token.type for token in every]
    assert not {"html_inline", "html_block", "image"} & set(kinds)
    assert {t.attrs["href"] for t in every if t.type == "link_open"} == {PAPER}
    assert (kinds.count("heading_open"), kinds.count("strong_open")) == (5, 1)  # the card's own
    assert [t.type for t in tokens].count("td_open") == 7
    assert page.count("&lt;script&gt;alert(1)") >= 6
    (block,) = [t for t in tokens if t.type == "fence"]
    tree = ast.parse(block.content)
    assert [type(node).__name__ for node in tree.body] == [
        "ImportFrom",
        "Assign",
        "Assign",
        "Assign",
    ]
    called = [ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)]
    assert sorted(called) == [
        "DDIMPipeline.from_pretrained",
        "DDIMScheduler.from_config",
        "pipeline",
    ]


def test_the_outcome_of_an_improvement_names_a_run_below_it(here, monkeypatch):
    """outcome.json of a finished run says what to export."""
    monkeypatch.chdir(here)
    words = ["model=diffusers", "model.path=asset:digits_base", "data=digits", "out=better"]
    planned = Run.planned(compose_stage("improve", words))
    body = yaml.safe_dump(planned.config, sort_keys=False)
    head = HEAD.format(identity=planned.identity, digest=files.sha256_text(body))
    files.write_text(planned.path / "config.yaml", f"{head}\n{body}")
    files.write_json(planned.path / "status.json", {"state": "done"})
    theirs = {
        "metric": "loss",
        "better": True,
        "metrics": {},
        "weights": [1],
        "idea": "merge",
        "tried": [],
    }
    for place in ("../../../../elsewhere", str(BASE), "hub:somebody/model"):
        files.write_json(planned.path / "outcome.json", {**theirs, "model": place})
        code, text = run(["improve", *words], here)
        assert code == (3 if place.startswith("hub:") else 2), text
        assert place.startswith("hub:") or "does not lie in" in text
        assert not (here / "better").exists()


class Code:
    def __reduce__(self):
        return os.mkdir, ("canary",)


def test_pickles_run_no_code(here):
    import torch

    theirs = Path(shutil.copytree(BASE, here / "theirs"))
    (theirs / "unet/diffusion_pytorch_model.safetensors").unlink()
    torch.save({"x": Code()}, theirs / "unet/diffusion_pytorch_model.bin")
    (here / "model.ckpt").write_bytes(pickle.dumps(Code()))
    (here / "model.pt").write_bytes(pickle.dumps({"a": Code()}, protocol=4))
    for words in (
        ["convert", "model.ckpt", "out=converted"],
        ["convert", "model.pt", "out=converted"],
        ["sample", "run=theirs"],
        ["merge", "inputs.experts=[theirs]", "plan=true"],
        ["doctor", "model=theirs/"],
    ):
        code, text = run(words, here)
        assert code in (2, 4), (words, text)
        assert "Traceback" not in text
        no_canary(here)


def test_one_module_imports_what_configurations_name():
    """hydra.utils.instantiate, and any other way from a name in a file to code."""
    ways = re.compile(r"hydra\.utils|import_module|__import__|resolve_name|\beval\(|\bexec\(")
    found = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        for line in file.read_text().splitlines()
        if ways.search(line) and ".eval()" not in line
    }
    assert found == {
        "runs/trusted.py",
        "commands/__init__.py",  # names of commands
        "cli/suite_commands.py",
        "models/loading.py",  # files of a folder of the package
        "system/optional.py",  # names of optional packages
        "system/helper.py",  # names of commands, too
    }


@pytest.mark.parametrize("target", ["os.path.join", "mine.os.mkdir", "mine.AdamW", "mine.os", "mine.x", "mine..x"])  # fmt: skip
def test_of_a_trusted_package_only_what_it_defines(tmp_path, monkeypatch, target):
    (tmp_path / "mine.py").write_text("import os\nfrom torch.optim import AdamW\nclass Own: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(trusted.VARIABLE, "another,mine")
    assert type(deme.runs.instantiate({"_target_": "mine.Own"})).__name__ == "Own"
    with pytest.raises(BadConfig):
        deme.runs.instantiate({"_target_": target})


def test_who_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(trusted, "conf_dir", lambda: tmp_path)
    monkeypatch.setenv(trusted.VARIABLE, "one,[two.sub],")
    (tmp_path / "local").mkdir()
    local = tmp_path / "local/default.yaml"
    for text, names in (("trust: [three, four]", ["three", "four"]), ("trust: three", ["three"]), ("a: 1", [])):  # fmt: skip
        local.write_text(f"# @package _global_\n{text}\n")
        assert trusted.trusted_packages() == ["one", "two.sub", *names]
    local.write_text("trust: my-package\n")
    with pytest.raises(BadConfig, match="my-package"):
        trusted.trusted_packages()


def test_trust_of_other_files_is_refused():
    with pytest.raises(BadConfig, match="type: trust=<package>"):
        compose_stage("train", ["+trust=[torch]"])
