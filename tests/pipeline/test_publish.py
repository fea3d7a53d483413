"""Trackers as a mirror of run directories: live, afterwards, after a kill, and a whole suite."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.pipeline.program import TINY_EXPERTS, TINY_TRAIN, done, run
from tests.pipeline.test_errors import fails
from tests.tracked import own, png, read_csv, wandb_run, write_run, write_runs

# wandb looks for keys at home, and the tests must not find those of who runs them
ALONE = """
import os
for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC", "WANDB_MODE"):
    os.environ.pop(name, None)
os.environ["HOME"] = os.getcwd()
"""
END_IN_STEP = """
import os
from deme.training.module import DiffusionModule
step = DiffusionModule.training_step
def training_step(self, *args):
    if self.micro_step == {step}:
        os.kill(os.getpid(), {signum:d})
    return step(self, *args)
DiffusionModule.training_step = training_step
"""

IMPORTS = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


def test_wandb_has_one_run_and_every_step_once_whatever_stopped_it(tmp_path):
    words = ["train", "logger=wandb", *TINY_TRAIN, "progress.log_every=2", "suite=mirror"]
    home = tmp_path / "runs" / "mirror" / "tracking"
    for step, signum, code in ((4, signal.SIGTERM, 75), (9, signal.SIGKILL, -signal.SIGKILL)):
        found, text = run(words, tmp_path, ALONE + END_IN_STEP.format(step=step, signum=signum))
        assert found == code, text
        (curve,) = tmp_path.glob("runs/mirror/train/*/metrics.jsonl")
        steps = [json.loads(line)["step"] for line in curve.read_text().splitlines()]
        assert steps == [*range(1, step, 2)]  # and no row of the step at which it stopped
        if signum == signal.SIGTERM:  # what is sent until then is kept
            assert [row["_step"] for row in wandb_run(home)["rows"]] == steps
    trained = done(words, tmp_path)
    curve = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    first = wandb_run(home)
    assert [row["_step"] for row in first["rows"]] == [1, 3, 5, 7, 9, 11]
    for name in ("loss", "learning_rate", "gradient_norm", "ema_decay"):
        assert [row[f"train/{name}"] for row in first["rows"]] == [row[name] for row in curve]
    assert all(row["train/images_per_second"] > 0 for row in first["rows"])
    assert "samples/path" in first["rows"][-1]
    # the command again publishes again, and so does `deme publish`; neither changes what is there
    assert done([*words, "logger.project=other"], tmp_path) == trained
    second = wandb_run(home)
    assert second["about"].project == "other"
    code, text = run(["publish", str(trained), "logger=wandb"], tmp_path, ALONE)
    assert code == 0, text
    assert "wandb sync" in text
    third = wandb_run(home)
    for found in (second, third):
        assert [own(row) for row in found["rows"]] == [own(row) for row in first["rows"]]
        assert own(found["summary"]) == own(first["summary"])


def test_what_is_recorded_changes_neither_weights_nor_the_run(tmp_path):
    """The norm of the gradient is there without clipping, too; lr and decay are those of the step."""
    words = ["train", *TINY_TRAIN, "num_steps=4", "progress.log_every=2", "learning_rate=cosine"]
    trained = done([*words, "gradient_clip=null", "ema=post_hoc", "snapshots.every=4"], tmp_path)  # fmt: skip
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    rates = [row["learning_rate"] for row in rows]
    assert rates[0] > rates[1] > 0
    assert all(row["gradient_norm"] > 0 for row in rows)
    assert 0 < rows[0]["ema_decay"] < rows[1]["ema_decay"] < 1
    status = json.loads((trained / "status.json").read_text())
    assert "speed.jsonl" not in status["outputs"]
    quiet = done([*words, "progress.log_every=3", "ema=none"], tmp_path)
    again = done([*words, "progress.log_every=1", "ema=none", "paths.runs=runs/other"], tmp_path)
    assert (quiet.name, quiet) == (again.name, tmp_path / "runs/scratch/train" / again.name)
    digests = [json.loads((each / "status.json").read_text())["weights"] for each in (quiet, again)]
    assert digests[0] == digests[1]
    row = json.loads((again / "metrics.jsonl").read_text().splitlines()[0])
    assert "ema_decay" not in row


def test_a_logger_of_lightning_gets_the_live_curve(tmp_path):
    logger = ["trust=pytorch_lightning", "+logger._target_=pytorch_lightning.loggers.CSVLogger", "+logger.save_dir=mine"]  # fmt: skip
    words = [*TINY_EXPERTS, "expert=0", "num_steps=2"]
    done(["train", *logger, *words], tmp_path)
    (file,) = tmp_path.glob("mine/**/metrics.csv")
    rows = read_csv(file)
    assert [row["step"] for row in rows] == ["0", "1"]
    assert all(float(row["train/loss"]) > 0 for row in rows)
    (config,) = tmp_path.glob("mine/**/hparams.yaml")
    assert "method: deme" in config.read_text()
    fails(["train", *logger[1:], *words, "seed=1"], tmp_path, 2, "trust=")
    fails(["evaluate", *logger], tmp_path, 2, "logger=none")


SUITE = """
suite: s
baseline: before
metrics: [loss]
finetune_seeds: [0]
sample_seeds: [1, 2]
common: {evaluate: [metrics=loss]}
rows:
  - {name: before, label: "before finetuning", evaluate: []}
  - {name: real, label: "real | data", evaluate: [source=weights, num_images=9]}
  - {name: later, label: "not measured", evaluate: [num_images=11]}
"""


@pytest.fixture
def suite(tmp_path):
    """A suite of which two rows are measured."""
    from deme.runs import Run, Suite

    (tmp_path / "suite.yaml").write_text(SUITE)
    found = Suite.read(tmp_path / "suite.yaml", tmp_path / "runs")
    for node in found.nodes:
        if node.row == "later":
            continue
        planned = node.run
        assert isinstance(planned, Run)
        value = 0.5 + 0.1 * (node.row == "real")
        metric = {"value": value, "n": 9, "num_images": 9, "reference": "x", "implementation": "y", "better": "lower"}  # fmt: skip
        spread = [value + 0.02 * (value - 0.45) * i for i in (-1, 0, 1)]
        planned.execute(lambda run, metric=metric, spread=spread: _measured(run.path, metric, spread))  # fmt: skip
    return tmp_path


def _measured(place: Path, metric: dict, spread: list[float]) -> None:
    from deme.system import files

    files.write_json(place / "metrics.json", {"cell": {}, "metrics": {"loss": metric}})
    files.write_json(place / "replicates.json", {"loss": spread})
    png(place / "samples" / "grid.png")


def test_a_suite_is_published_with_its_table(suite):
    code, text = run(["publish", "suite.yaml", "logger=csv"], suite)
    assert code == 0, text
    assert "published 4 runs and the table to" in text
    assert "2 runs are not finished" in text
    folder = suite / "runs" / "s" / "tracking" / "csv"
    rows = {row["row"]: row for row in read_csv(folder / "s-table" / "rows.csv")}
    assert float(rows["real"]["difference"]) == pytest.approx(0.1)
    assert rows["real"]["verdict"] == "worse"
    assert "later" not in rows
    samples = read_csv(folder / "s-table" / "samples_by_seed.csv")
    assert [(row["row"], row["sample_seed"]) for row in samples] == [("before", "1"), ("before", "2"), ("real", "1"), ("real", "2")]  # fmt: skip
    (line,) = read_csv(folder / "s-table" / "run.csv")
    assert float(line["difference/loss/real/low"]) < 0.1 < float(line["difference/loss/real/high"])
    code, text = run(["publish", "suite.yaml", "logger=tensorboard"], suite)
    assert code == 0, text
    assert "tensorboard --logdir" in text
    code, text = run(["publish", "suite.yaml", "logger=wandb"], suite, ALONE)
    assert code == 0, text
    table = wandb_run(folder.parent, "s-table")
    assert table["summary"]["table/loss/before"] == 0.5
    (row,) = table["rows"]
    held = json.loads((table["folder"] / "files" / row["samples_by_seed/path"]).read_text())
    assert len(held["data"]) == 4
    assert {line[held["columns"].index("sample_seed")] for line in held["data"]} == {1, 2}


def test_a_folder_of_runs_is_published_without_a_suite_file(tmp_path):
    runs = write_runs(tmp_path)
    status = json.loads((runs["merge"] / "status.json").read_text())
    (runs["merge"] / "status.json").write_text(json.dumps({**status, "state": "failed"}))
    code, text = run(["publish", "runs/s", "logger=csv", "logger.folder=out"], tmp_path)
    assert code == 0, text
    assert "published 3 runs to" in text
    assert "1 runs are not finished" in text
    assert len(list((tmp_path / "out" / "csv").glob("s-*"))) == 3
    fails(["publish", str(runs["merge"]), "logger=csv"], tmp_path, 3, "run its command to resume")
    # a damaged run does not keep the others from being sent
    (runs["search"] / "evaluations.jsonl").write_text("x\n")
    shutil.rmtree(tmp_path / "out")
    fails(["publish", "runs/s", "logger=csv", "logger.folder=out"], tmp_path, 4, "evaluations.jsonl")  # fmt: skip
    assert len(list((tmp_path / "out" / "csv").glob("s-*"))) == 2


def test_what_publish_refuses(tmp_path):
    write_run(tmp_path / "runs/s/average/x", ["inputs.run=x"])
    for words, code, texts in (
        (["publish", "logger=csv"], 2, ["one suite, run directory or folder of runs", "type: deme publish"]),
        (["publish", "runs/s"], 2, ["csv, mlflow, tensorboard, wandb", "type: deme publish"]),
        (["publish", "runs/s", "logger=none"], 2, ["type: deme publish"]),
        (["publish", "runs/s", "logger=cvs"], 2, ["did you mean 'csv'", "tensorboard"]),
        (["publish", "runs/s", "logger=csv", "logger.foldr=x"], 2, ["logger.foldr"]),
        (["publish", "runs/s", "logger=csv", "logger.folder=3"], 2, ["logger.folder must be"]),
        (["publish", "runs/s", "logger=csv", "files=true"], 2, ["files=false"]),
        (["publish", "runs/s", "logger=wandb", "logger.mode=disabled"], 2, ["logger.mode=offline"]),
        (["publish", "runs/s", "logger=wandb", "logger.mode=online"], 3, ["wandb login", "logger.mode=offline"]),
        (["publish", "runs/none", "logger=csv"], 3, ["runs/none"]),
    ):  # fmt: skip
        found, text = run(words, tmp_path, ALONE)
        assert found == code, (words, text)
        assert all(part in text for part in texts), (words, text)
        assert "Traceback" not in text
    assert not (tmp_path / "runs/s/tracking").exists()


KILL = """
import os, signal
import {module} as module
{name} = module.{name}
count = 0
def counted(*args, **kwargs):
    global count
    count += 1
    if count == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return {name}(*args, **kwargs)
module.{name} = counted
"""


@pytest.mark.parametrize(
    ("tracker", "module", "name", "at"),
    [
        ("csv", "deme.tracking.csv_tracker", "as_csv", 6),
        ("tensorboard", "deme.tracking.tensorboard_tracker", "_write", 12),
        ("wandb", "deme.tracking.wandb_tracker", "_log", 2),
    ],
)
def test_after_a_kill_publishing_again_completes(tmp_path, tracker, module, name, at):
    runs = write_runs(tmp_path)
    words = ["publish", "runs/s", f"logger={tracker}"]
    killed, text = run(words, tmp_path, ALONE + KILL.format(module=module, name=name, at=at))
    assert killed == -signal.SIGKILL, text
    code, text = run(words, tmp_path, ALONE)
    assert code == 0, text
    home = runs["expert"].parents[1] / "tracking"
    found = {p.relative_to(home) for p in home.glob("*/*") if p.is_dir() and p.name != "staged"}
    assert len(found) == 4
    if tracker == "wandb":
        assert [row["_step"] for row in wandb_run(home, "-train-")["rows"]] == [1, 3, 5]
    assert not list(home.rglob(".*"))


@IMPORTS
def test_a_dashboard_is_a_specification_without_a_key(suite):
    from wandb_workspaces.workspaces.internal import View

    for _ in range(2):
        code, text = run(["dashboard", "suite.yaml"], suite, ALONE)
        assert code == 0, text
        assert "wandb login" in text
    written = json.loads((suite / "runs/s/tracking/wandb/dashboard.json").read_text())
    assert written.pop("url") is None
    view = View.model_validate(written)
    sections = {s.name: s.panels for s in view.spec.section.panel_bank_config.sections}
    assert set(sections) == {"Table", "Differences", "Curves", "Samples", "Parallel coordinates"}
    assert all(sections.values())
    text = json.dumps(written)
    for key in ("difference/loss/real", "train/loss", "samples_by_seed", "metric/loss", '"value": "s"'):  # fmt: skip
        assert key in text
    fails(["dashboard", "suite.yaml", "projekt=x"], suite, 2, "did you mean 'project'")


@IMPORTS
def test_a_dashboard_that_is_uploaded_again_replaces_itself(suite, monkeypatch):
    """What wandb-workspaces sends is caught: no test uses a network."""
    import wandb_workspaces.workspaces.interface as interface

    from deme.runs import Suite
    from deme.tracking.dashboard import make_workspace, save

    sent = []

    def upsert(view):
        sent.append((view.name, view.id, view.entity))
        return {"upsertView": {"view": {"name": view.name, "id": "42"}}}

    address = property(lambda self: f"https://wandb.ai/me/deme?nw={self._internal_name}")
    monkeypatch.setattr(interface.internal, "upsert_view2", upsert)
    monkeypatch.setattr(interface.Workspace, "url", address)
    monkeypatch.setattr(interface.wandb, "termlog", lambda *_: None)
    read = Suite.read(suite / "suite.yaml", suite / "runs")
    file = suite / "dashboard.json"
    url = save(make_workspace(read, "deme", "me"), file, online=True)

    def from_url(given):
        assert given == url
        earlier = make_workspace(read, "deme", "me")
        earlier._internal_name, earlier._internal_id = sent[0][0], "42"
        return earlier

    monkeypatch.setattr(interface.Workspace, "from_url", staticmethod(from_url))
    assert save(make_workspace(read, "deme", "me"), file, online=True) == url
    assert sent == [(sent[0][0], "", "me"), (sent[0][0], "42", "me")]
