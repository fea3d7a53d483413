"""What is sent of a run to trackers, and that sending it twice is sending it once."""

import json
import re
import shutil
from pathlib import Path

import pytest

from deme.runs import compose_stage, read_status
from deme.runs.settings import TrainSettings, build
from deme.system import BadConfig, MissingInput, WorkFailed, files
from deme.system.optional import requirements_of_extra
from deme.tracking import Mirror, Point, Record, read_record, settings_of, tracker_id
from deme.tracking.csv_tracker import Csv
from deme.tracking.curves import training_point
from deme.tracking.tensorboard_tracker import TensorBoard
from deme.tracking.wandb_tracker import Wandb, has_credentials, resolved_mode
from tests.tracked import COMMIT, own, png, read_csv, wandb_run, write_run, write_runs

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("tracked")
    return write_runs(root)


@pytest.fixture
def runs(made, tmp_path, monkeypatch):
    """The runs, with nothing that was sent of them; wandb finds no home and no key."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    yield made
    shutil.rmtree(home(made), ignore_errors=True)


def home(runs) -> Path:
    return runs["expert"].parents[1] / "tracking"


def send(tracker, run: Path) -> None:
    Mirror(tracker, "test").publish(run)


def test_settings_have_dotted_keys_and_no_empty_groups():
    config = {"a": {"b": {"c": 1}, "none": {}}, "values": [], "d": None}
    assert settings_of(config) == {"a.b.c": 1, "values": [], "d": None}


def test_a_record_of_a_training(made):
    record = read_record(made["expert"])
    assert record.id == "s-train-deme-e0-s0-aaaa"
    assert (record.suite, record.stage, record.state, record.commit) == ("s", "train", "done", COMMIT)  # fmt: skip
    assert record.home == home(made)
    assert (record.began, record.ended) == (940, 1000)
    assert record.tags == ("s", "train", "deme")
    assert record.notes == "deme train method=deme expert=0"
    config = record.config
    assert config["optimizer.lr"] > 0
    assert config["progress.preview.num_images"] == 36
    assert config["cell.method"] == config["method"] == "deme"
    assert config["run.commit"] == COMMIT
    assert not any(isinstance(value, dict) for value in config.values())
    assert [point.step for point in record.curve] == [1, 3, 5]
    assert record.curve[1] == Point(
        3,
        {"train/loss": 0.25, "train/loss/denoising": 0.5, "train/learning_rate": 1e-4, "train/gradient_norm": 2.0,
         "train/ema_decay": 0.9, "train/images_per_second": 100.0},
        993.0,
    )  # fmt: skip
    assert "train/gradient_norm" not in record.curve[0].values  # it was not finite
    assert record.summary == {"state": "done", "seconds": 60.0, "num_forward_passes": 12}
    assert set(record.images) == {"samples"}


def test_live_and_afterwards_a_row_is_the_same(made):
    rows = [json.loads(line) for line in (made["expert"] / "metrics.jsonl").read_text().splitlines()]  # fmt: skip
    timed = [json.loads(line) for line in (made["expert"] / "speed.jsonl").read_text().splitlines()]
    live = [
        training_point({**row, **more}, made["expert"])
        for row, more in zip(rows, timed, strict=True)
    ]
    assert live == list(read_record(made["expert"]).curve)


def test_records_of_search_merge_and_evaluation(made):
    search, merge, evaluation = (read_record(made[name]) for name in ("search", "merge", "evaluation"))  # fmt: skip
    assert [point.values.get("search/score") for point in search.curve] == [3.0, 1.0, None]
    assert [point.values["search/best"] for point in search.curve] == [3.0, 1.0, 1.0]
    assert [point.step for point in search.curve] == [1, 2, 3]
    assert search.summary["search/best_weight/0"] == 0.5
    assert merge.summary["merge/weight/0"] == 0.5
    assert merge.summary["merge"] == "weighted_sum"
    numbers = evaluation.numbers
    assert numbers["metric/fd_digits"] == numbers["metric/loss/0"] == 0.25
    assert (numbers["metric/fd_digits/low"], numbers["metric/fd_digits/high"]) == (0.2, 0.3)
    assert numbers["metric/loss/n"] == 10
    assert evaluation.config["sample_seed"] == 1


def test_the_lineage_leads_from_the_base_to_the_evaluation(made):
    expert, search, merge, evaluation = (read_record(made[n]) for n in made)
    (base,) = expert.inputs
    assert base.name == "asset-digits_base"
    by_name = {item.name: item for item in expert.outputs}
    assert set(by_name) == {"s-train-deme-e0-s0-aaaa-ema", "s-train-deme-e0-s0-aaaa-raw"}
    taken = {item.name: item for item in merge.inputs}
    averaged, found = by_name["s-train-deme-e0-s0-aaaa-ema"], search.outputs[0]
    assert taken[averaged.name].listed() == averaged.listed()
    assert taken[found.name].listed() == found.listed()
    assert taken[base.name].listed() == base.listed()
    assert [item.listed() for item in evaluation.inputs] == [merge.outputs[0].listed()]
    assert averaged.sha256 == files.sha256(made["expert"] / "weights" / "ema")
    assert [name for name, _ in averaged.files()] == ["deme.json", f"unet/{WEIGHTS}"]


def test_an_input_that_is_not_here_any_more_keeps_name_and_digest(made, tmp_path):
    moved = Path(shutil.copytree(made["merge"], tmp_path / "else/s/merge/merged-s0-cccc"))
    record = json.loads((moved / "run.json").read_text())
    gone = "/nowhere/s/train/deme-e0-s0-aaaa"
    record["inputs"] = {"experts": {gone: "0" * 64}}
    files.write_json(moved / "run.json", record)
    there = read_record(moved)
    assert there.id == read_record(made["merge"]).id
    (item,) = (item for item in there.inputs if item.name.startswith("s-"))
    assert (item.name, item.sha256) == ("s-train-deme-e0-s0-aaaa-ema", "0" * 64)
    assert item.files() == []


def test_links_of_somebody_else_are_not_sent(tmp_path):
    secret = tmp_path / "secret.png"
    png(secret)
    run = write_run(tmp_path / "runs/s/train/x", [], None, {"ema": "a"})
    (run / "weights/ema/unet/key").symlink_to(secret)
    (run / "samples").mkdir()
    (run / "samples/grid.png").symlink_to(secret)
    (run / "task.png").write_text("no picture")
    record = read_record(run)
    assert not record.images
    assert [name for name, _ in record.outputs[0].files()] == ["deme.json", f"unet/{WEIGHTS}"]


def test_files_of_this_disk_that_a_run_of_somebody_else_names_are_not_sent(tmp_path):
    png(tmp_path / "private" / "key.png")
    private, digest = tmp_path / "private", files.sha256(tmp_path / "private")
    words = ["model=diffusers", f"model.path={private}", f"inputs.experts=[{private}]"]
    run = write_run(tmp_path / "runs/s/merge/x", words, {"experts": {str(private): digest}})
    record = read_record(run)
    assert {item.name for item in record.inputs} == {"private"}
    assert not any(item.files() for item in record.inputs)


def test_ids_are_ones_that_every_tracker_takes():
    assert tracker_id("s", "train", "deme-e0-s0-aaaa") == "s-train-deme-e0-s0-aaaa"
    ids = [tracker_id("s", "train", name) for name in ("x" * 200, "x" * 201, "a+b", "a_b", "é")]
    assert len({*ids}) == 5
    assert all(len(each) <= 128 and set(each) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.") for each in ids)  # fmt: skip


def test_runs_of_earlier_versions_had_another_logger(made):
    config = compose_stage("train", [])
    for older in ({"mode": "offline", "project": "deme"}, {}, None):
        assert build(TrainSettings, {**config, "logger": older}).logger is None
    del config["logger"]
    assert build(TrainSettings, config).logger is None


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}  # fmt: skip


@pytest.mark.parametrize("tracker", [Csv, TensorBoard])
def test_published_twice_the_files_are_the_same(runs, tracker):
    for run in runs.values():
        send(tracker(), run)
    before = content(home(runs))
    send(tracker(), runs["expert"])
    assert content(home(runs)) == before
    assert len({name.split("/")[1] for name in before}) == 4


def test_csv_files_hold_everything(runs, tmp_path):
    for run in runs.values():
        Mirror(Csv(str(tmp_path / "out")), "csv").publish(run)
    folder = tmp_path / "out" / "csv"
    (line,) = read_csv(folder / "s-evaluate-merged-s0-n1-dddd" / "run.csv")
    assert float(line["metric/fd_digits/low"]) == 0.2
    assert line["config.sampler.num_inference_steps"]
    curve = read_csv(folder / "s-train-deme-e0-s0-aaaa" / "curve.csv")
    assert [(row["step"], row["train/gradient_norm"]) for row in curve] == [("1", ""), ("3", "2.0"), ("5", "2.0")]  # fmt: skip
    artifacts = read_csv(folder / "s-merge-merged-s0-cccc" / "artifacts.csv")
    assert [row["direction"] for row in artifacts] == ["input"] * 3 + ["output"]
    assert not home(runs).exists()


def test_tensorboard_reads_what_was_written(runs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    for _ in range(2):
        for run in runs.values():
            send(TensorBoard(), run)
    place = home(runs) / "tensorboard"
    read = EventAccumulator(str(place / "s-train-deme-e0-s0-aaaa")).Reload()
    points = [(event.step, event.value, event.wall_time) for event in read.Scalars("train/loss")]
    assert points == [(1, 0.5, 991), (3, 0.25, 993), (5, pytest.approx(1 / 6), 995)]
    assert [event.step for event in read.Scalars("train/gradient_norm")] == [3, 5]
    (image,) = read.Images("samples")
    assert (image.width, image.height) == (4, 4)
    (text,) = read.Tensors("artifacts")
    assert b"asset-digits\\_base" in text.tensor_proto.string_val[0] or b"asset-digits_base" in text.tensor_proto.string_val[0]  # fmt: skip
    (packed,) = read.PluginTagToContent(metadata.PLUGIN_NAME).values()
    hparams = metadata.parse_session_start_info_plugin_data(packed).hparams
    assert hparams["optimizer.lr"].number_value > 0
    assert hparams["method"].string_value == "deme"
    summary = EventAccumulator(str(place / "s-evaluate-merged-s0-n1-dddd")).Reload()
    assert summary.Scalars("metric/fd_digits/high")[0].value == pytest.approx(0.3)


def test_wandb_holds_one_run_of_everything_offline(runs, tmp_path):
    for _ in range(2):
        for run in runs.values():
            send(Wandb(), run)
    expert = wandb_run(home(runs), "-train-")
    about = expert["about"]
    assert (about.run_id, about.run_group, about.job_type) == ("s-train-deme-e0-s0-aaaa", "s", "train")  # fmt: skip
    assert (about.git.commit, about.notes) == (COMMIT, "deme train method=deme expert=0")
    assert set(about.tags) == {"s", "train", "deme"}
    assert expert["config"]["progress.preview.num_images"] == 36
    assert expert["exit"] == 0
    rows = expert["rows"]
    assert [(row["_step"], row["train/loss"]) for row in rows] == [(1, 0.5), (3, 0.25), (5, 1 / 6)]
    assert rows[0]["_timestamp"] == 991
    picture = expert["folder"] / "files" / rows[-1]["samples/path"]
    assert picture.is_file()
    evaluation = wandb_run(home(runs), "-evaluate-")
    assert evaluation["summary"]["metric/fd_digits/low"] == 0.2
    # an artifact is the same one where it is made and where it is taken
    merge = wandb_run(home(runs), "-merge-")
    for name, taken in merge["inputs"].items():
        if name.startswith("s-train"):
            assert expert["outputs"][name].digest == taken.digest
    assert set(evaluation["inputs"]) == set(merge["outputs"])
    staged = [entry.local_path for entry in merge["outputs"]["s-merge-merged-s0-cccc-merged"].manifest.contents]  # fmt: skip
    assert staged
    assert all(Path(place).is_file() and place.startswith(str(home(runs))) for place in staged)


@pytest.fixture
def judged(runs):
    """A training with held-out losses and grids of samples before it, on the way and at the end."""
    rows = [
        {"step": -1, "held_out_loss": 0.5},
        {"step": 1, "loss": 1.0},
        {"step": 3, "loss": 0.5, "held_out_loss": 0.25},
        {"step": 4, "held_out_loss": 0.125},  # another one has no grid
    ]
    place = runs["expert"].parent / "judged-s0-eeee"
    run = write_run(place, [], None, {"ema": "a"}, metrics_lines=rows, cost={"num_forward_passes": 1})  # fmt: skip
    for name, size in (("grid", 8), ("step-0", 5), ("step-4", 6)):
        png(run / "samples" / f"{name}.png", size)
    yield run
    shutil.rmtree(run)


def test_held_out_losses_and_grids_are_sent_with_their_steps(judged, runs):
    curve = read_record(judged).curve
    assert [(p.step, p.values.get("train/held_out_loss")) for p in curve] == [(0, 0.5), (1, None), (3, 0.25), (4, 0.125)]  # fmt: skip
    assert [[file.name for file in p.images.values()] for p in curve] == [["step-0.png"], [], ["step-4.png"], []]  # fmt: skip
    send(Csv(), judged)
    (place,) = (home(runs) / "csv").glob("*judged*")
    listed = [(row["name"], row["step"], Path(row["file"]).name) for row in read_csv(place / "images.csv")]  # fmt: skip
    assert listed == [("train/samples", "0", "step-0.png"), ("train/samples", "3", "step-4.png"), ("samples", "4", "grid.png")]  # fmt: skip


def test_tensorboard_shows_grids_at_their_steps(judged, runs):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    send(TensorBoard(), judged)
    read = EventAccumulator(str(home(runs) / "tensorboard" / "s-train-judged-s0-eeee")).Reload()
    assert [(image.step, image.width) for image in read.Images("train/samples")] == [(0, 5), (3, 6)]
    assert [(image.step, image.width) for image in read.Images("samples")] == [(4, 8)]


def test_wandb_shows_grids_at_their_steps_live_and_afterwards(judged, runs):
    mirror = Mirror(Wandb(), "wandb")
    mirror.start(judged)
    for row in (json.loads(line) for line in (judged / "metrics.jsonl").read_text().splitlines()):
        mirror.log(row)
    mirror.stop()
    live = wandb_run(home(runs), "-train-judged")["rows"]
    mirror.publish(judged)
    for rows in (live, wandb_run(home(runs), "-train-judged")["rows"]):
        found = {row["_step"]: row for row in rows}
        assert found[0]["train/held_out_loss"] == 0.5
        assert [step for step in found if "train/samples/path" in found[step]] == [0, 3]


def test_a_grid_that_is_a_link_is_not_sent(judged, tmp_path):
    (judged / "samples/step-5.png").symlink_to(judged / "samples/grid.png")
    assert not read_record(judged).curve[-1].images


def test_wandb_takes_the_weights_only_when_asked(runs):
    names = []
    for wanted in (False, True):
        Mirror(Wandb(), "wandb").publish(runs["expert"], wanted)
        made = wandb_run(home(runs), "-train-")["outputs"]["s-train-deme-e0-s0-aaaa-ema"]
        names.append(sorted(entry.path for entry in made.manifest.contents))
    assert names == [["digest.json"], ["deme.json", "digest.json", f"unet/{WEIGHTS}"]]
    with pytest.raises(BadConfig, match="files=false"):
        Mirror(Csv(), "csv").publish(runs["expert"], files=True)


def test_wandb_asks_nothing(runs, tmp_path, monkeypatch):
    assert resolved_mode(None) == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(MissingInput, match="wandb login"):
        Wandb()
    assert Wandb(mode="offline").mode == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert Mirror(Wandb(), "wandb").publish(runs["merge"]) == ""
    assert not home(runs).exists()
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(BadConfig, match=r"type: logger\.mode=offline"):
        Wandb()
    assert not has_credentials()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password 0123\n")
    assert has_credentials()
    monkeypatch.setenv("WANDB_MODE", "online")
    assert Wandb().mode == "online"


def test_mlflow_adds_what_is_missing(runs, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow-skinny needs importlib_metadata < 10; make test-mlflow installs both elsewhere")  # fmt: skip
    from mlflow import MlflowClient

    from deme.tracking.mlflow_tracker import Mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    whole = read_record(runs["expert"])
    mirror = Mirror(Mlflow(), "mlflow")
    mirror.start(runs["expert"])
    mirror.log({"step": 1, "loss": 0.5})  # and then it is killed
    for _ in range(2):
        for run in runs.values():
            mirror.publish(run)
    place = home(runs) / "mlflow"
    client = MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("deme/s")
    found = {run.data.tags["deme.id"]: run for run in client.search_runs([experiment.experiment_id])}  # fmt: skip
    assert len(found) == 4
    run = found[whole.id]
    history = client.get_metric_history(run.info.run_id, "train/loss")
    points = sorted((m.step, m.value) for m in history)
    assert points == [(1, 0.5), (3, 0.25), (5, 1 / 6)]
    assert run.data.params["progress.preview.num_images"] == "36"
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.source.git.commit"] == COMMIT
    assert run.data.tags["input.asset-digits_base"]
    assert found["s-evaluate-merged-s0-n1-dddd"].data.metrics["metric/fd_digits/low"] == 0.2
    assert [f.path for f in client.list_artifacts(run.info.run_id, "images/samples")]
    # a parameter cannot be changed: the run is sent anew
    mirror.send(Record(**{**vars(whole), "config": {"num_steps": 7}}))
    assert len(client.search_runs([experiment.experiment_id])) == 4


@pytest.mark.parametrize(
    ("option", "module", "extra"),
    [("tensorboard", "tensorboard", "tensorboard"), ("mlflow", "mlflow", "mlflow")],
)
def test_a_library_that_is_not_installed_costs_one_message(monkeypatch, option, module, extra):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    logger = compose_stage("train", [f"logger={option}"])["logger"]
    with pytest.raises(
        MissingInput, match=rf"pip install {re.escape(requirements_of_extra(extra))}"
    ):
        Mirror.of(logger)


class Broken:
    """A tracker whose server does not answer."""

    keeps_files, is_off, sent = True, False, 0

    def live(self, record):
        return self

    def log(self, point):
        self.sent += 1
        raise RuntimeError("no answer")

    def close(self, failed):
        raise RuntimeError("no answer")

    publish = close


def test_a_tracker_that_fails_stops_no_work(runs, messages):
    tracker = Broken()
    mirror = Mirror(tracker, "broken")
    mirror.start(runs["expert"])
    for step in range(3):
        mirror.log({"step": step, "loss": 1.0})
    mirror.stop()
    assert tracker.sent == 1
    assert sum("no answer" in text for text in messages) == 1
    with pytest.raises(WorkFailed, match="deme publish"):
        mirror.publish(runs["expert"])
    assert read_status(runs["expert"])["state"] == "done"


def test_what_is_sent_live_is_replaced_when_the_run_is_done(runs):
    for tracker in (Wandb(), TensorBoard()):
        mirror = Mirror(tracker, "test")
        mirror.start(runs["expert"])
        for step in (1, 3):
            mirror.log({"step": step, "loss": 9.0})
        mirror.stop()
        mirror.publish(runs["expert"])
    rows = wandb_run(home(runs), "-train-")["rows"]
    assert [own(row)["train/loss"] for row in rows] == [0.5, 0.25, 1 / 6]
    events = list((home(runs) / "tensorboard").glob("*/*"))
    assert len(events) == 1
