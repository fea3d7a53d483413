"""The suites of real data sets at smoke size, on made-up files in the official layouts and with smaller networks."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from deme.metrics.inception import trunk
from deme.runs import Suite
from deme.system import files, read_json, tensors
from deme.system.errors import BadConfig, MissingInput
from deme.system.official_files import BINARY
from deme.system.paths import PACKAGE
from tests import fashion
from tests.cifar10 import unpack
from tests.pipeline.program import TINY_EVALUATE, TINY_TRAIN, done, run

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
PRETEND = "from tests.cifar10 import pretend; pretend()"
SMALLER = ["model.unet.block_out_channels=[8,8]", "+model.unet.norm_num_groups=4", "model.unet.layers_per_block=1",
           "model.unet.down_block_types=[DownBlock2D,AttnDownBlock2D]", "model.unet.up_block_types=[AttnUpBlock2D,UpBlock2D]"]  # fmt: skip


@pytest.fixture
def places(tmp_path):
    (tmp_path / "data").mkdir()
    unpack(BINARY, tmp_path / "data", without=["test_batch.bin"])
    (tmp_path / "models").mkdir()
    state = {
        name: value for name, value in trunk(768).state_dict().items() if "num_batches" not in name
    }
    tensors.save(tmp_path / "models" / "inception.safetensors", state)
    return tmp_path


def with_a_smaller_network(suite, folder):
    spec = yaml.safe_load((EXPERIMENTS / suite / "smoke.yaml").read_text())
    spec["rows"][0]["train"] += SMALLER
    for stage in ("train", "evaluate"):  # of the 30 made-up images, so that there are 6
        spec["common"][stage] = [
            word.replace("held_out=0.001", "held_out=0.2") for word in spec["common"][stage]
        ]
    place = folder / f"{suite}.yaml"
    place.write_text(yaml.safe_dump(spec))
    return place


@pytest.mark.parametrize(
    ("suite", "num_bases"),  # the study of natural images below is the quick one
    [
        pytest.param("cifar10", 1, marks=pytest.mark.slow),
        pytest.param("cifar10_compact", 2, marks=pytest.mark.slow),
    ],
)
def test_the_smoke_suite_pretrains_finetunes_merges_and_evaluates(suite, num_bases, places):
    place = with_a_smaller_network(suite, places)
    code, text = run(["reproduce", str(place)], places, PRETEND)
    assert code == 0, text
    spec = yaml.safe_load(place.read_text())
    table = (places / spec["results"] / f"{spec['suite']}.md").read_text()
    assert "--" not in [cell.strip() for line in table.splitlines() for cell in line.split("|")]
    passports = list(places.glob(f"runs/{spec['suite']}/train/*/passport.json"))
    trained = list(places.glob(f"runs/{spec['suite']}/train/*/weights"))
    assert len(passports) == len(trained) - 1  # all but the base, which starts from nothing
    bases = {
        read_json(p / "deme.json")["base"]
        for p in places.glob(f"runs/{spec['suite']}/train/*/weights/*")
    }
    # all from the one that was pretrained, and what is distilled from the experts' merge
    assert len(bases - {None}) == num_bases
    code, text = run(["plan", str(place)], places, PRETEND)
    assert code == 0, text
    assert "stale" not in text


FEW = ["num_steps=2", "batch_size=4", "progress.log_every=1", "progress.preview.num_images=2",
       "progress.preview.num_inference_steps=2", "passport.num_images=16"]  # fmt: skip
FEWER = ["num_images=6", "batch_size=3", "shard_size=3", "sampler.num_inference_steps=2",
         "metrics.replicates=5", "metrics.loss.draws=1"]  # fmt: skip
KINDS = ["pretrain", "before", "ant_nash_mtl", "soup", "routed", "merged", "merged_searched",
         "distilled"]  # fmt: skip


@pytest.mark.parametrize("name", ["suite", pytest.param("cifar10", marks=pytest.mark.slow)])
def test_the_study_of_natural_images_runs_with_every_kind_of_row(name, places):
    """All but the size is as in the suite: one seed, two steps, few images."""
    shared = (EXPERIMENTS / "shared" / "small_images.yaml").read_text()
    own = yaml.safe_load((EXPERIMENTS / "fashion" / f"{name}.yaml").read_text())
    spec = yaml.safe_load(shared.replace("$channels", own["variables"]["channels"]))
    common = spec["common"] | own.get("common", {})
    spec |= {key: own[key] for key in ("suite", "title", "metrics")}
    spec |= {"finetune_seeds": [0], "common": common, "comparisons": [["distilled", "routed"]]}
    spec["rows"] = [row for row in spec["rows"] if row["name"] in KINDS]
    for row in spec["rows"]:
        if "train" in row:
            row["train"] += FEW
    common["evaluate"] += FEWER
    common["search"] += ["num_images=4", "batch_size=4"]
    (places / "study.yaml").write_text(yaml.safe_dump(spec))
    fashion.write(places / "data", packed=True)
    shutil.rmtree(places / "data" / BINARY.folder)
    unpack(BINARY, places / "data")  # with the test images
    code, text = run(
        ["reproduce", "study.yaml", "results=out"],
        places,
        f"{PRETEND}; from tests import fashion; fashion.pretend()",
    )
    assert code == 0, text
    table = (places / "out" / f"{spec['suite']}.md").read_text()
    assert "--" not in [cell.strip() for line in table.splitlines() for cell in line.split("|")]
    labels = [row["label"] for row in spec["rows"] if "evaluate" in row]
    assert all(label in table for label in labels)


def test_the_files_that_are_missing_are_named_by_plan_and_by_reproduce(tmp_path):
    code, text = run(["plan", str(EXPERIMENTS / "cifar10"), "tflops=100"], tmp_path)
    assert code == 0, text
    assert "hours at 100 TFLOP/s" in text
    assert "runs cannot start: models/ddpm_ema_cifar10 does not exist" in text
    code, text = run(
        ["reproduce", str(EXPERIMENTS / "cifar10"), f"paths.models={tmp_path}/mine"], tmp_path
    )
    assert code == 3, text
    assert f"deme: {tmp_path}/mine/ddpm_ema_cifar10 does not exist" in text


def test_the_time_limit_of_reproduce_stops_as_a_scheduler_would(places):
    place = with_a_smaller_network("cifar10_compact", places)
    place.write_text(place.read_text().replace("num_steps=2", "num_steps=5000"))
    found: list[Path] = []
    for minutes in (0.1, 0.5):  # on a busy machine the first is over before training begins
        code, text = run(["reproduce", str(place), f"minutes={minutes}"], places, PRETEND)
        assert code == 75, text
        assert "run the same command to resume" in text
        found += places.glob("runs/cifar10_compact_smoke/train/pretrain-*/checkpoints/last.ckpt")
        if found:
            break
    assert found


def published(name):
    return read_json(EXPERIMENTS / name / "expected.json")["rows"]


STABLE_DIFFUSION = ["coco", "imagenet", "partiprompts"]


@pytest.mark.parametrize(
    "name", ["cifar10", "lsun_church", "lsun_bedroom", "ablation", *STABLE_DIFFUSION]
)
def test_published_numbers_belong_to_rows(name):
    suite = Suite.read(EXPERIMENTS / name)
    assert suite.expected == published(name)
    assert all(node.num_forward_passes >= 0 for node in suite.nodes if node.stage != "search")


def test_published_numbers_are_the_papers():
    assert published("cifar10")["deme_search"] == {"fid_pytorch": 3.51}
    assert published("lsun_church")["deme_search"] == {"fid_pytorch": 7.27}
    assert published("lsun_bedroom")["deme_before_merge"] == {"fid_pytorch": 5.87}
    assert published("ablation")["n8_sampling_consistency_projection"] == {"fid_pytorch": 3.87}
    assert published("coco")["deme_search"] == {"fid_pytorch": 13.06, "clip_score_open_clip": 30.11}
    assert published("imagenet")["p2"] == {"fid_pytorch": 26.92, "clip_score_open_clip": 26.44}
    assert published("partiprompts")["deme_before_merge"] == {"clip_score_open_clip": 30.02}


def test_the_ablation_trains_every_combination_for_the_same_number_of_steps():
    suite = Suite.read(EXPERIMENTS / "ablation")
    rows = {}
    for node in suite.nodes:
        if node.stage != "train" or not re.match(r"n\d_", node.row):
            continue  # what else could explain a gain
        config = node.config
        sampling = config["timesteps"].get("probability", 0) > 0
        key = (config["expert"] is None, config["ranges"]["num_ranges"], sampling,
               config["method"].get("consistency_weight", 0) > 0, config["projection"]["placement"])  # fmt: skip
        rows.setdefault((node.row, key), []).append(config["num_steps"])
    assert len(rows) == 4 + 3 * 8 == len({key for _, key in rows})
    assert {sum(steps) for steps in rows.values()} == {80_000}


def trained_by(suite):
    """What a suite trains, searches and merges, by all that a run id follows from, its label included."""
    nodes = [node for node in suite.nodes if node.stage != "evaluate"]
    return [
        (node.row, node.stage, node.expert, node.seed, json.dumps(node.config, sort_keys=True))
        for node in nodes
    ]


def test_the_tables_of_stable_diffusion_share_what_is_trained_and_nothing_that_is_measured():
    suites = {name: Suite.read(EXPERIMENTS / name) for name in STABLE_DIFFUSION}
    first, *others = (trained_by(suite) for suite in suites.values())
    assert others == [first, first]
    measured = {name: suite.evaluations("deme_search")[0].config for name, suite in suites.items()}
    assert {name: config["cell"]["prompts"] for name, config in measured.items()} == {
        n: n for n in suites
    }
    assert [config["num_images"] for config in measured.values()] == [30_000, 50_000, 1_632]
    assert {config["guidance_scale"] for config in measured.values()} == {7.5}
    assert {config["sampler"]["num_inference_steps"] for config in measured.values()} == {25}
    assert {suite.name for one in suites.values() for suite in one.sharing()} == {
        "stable_diffusion"
    }


def test_the_ablation_of_stable_diffusion_adds_to_the_runs_of_its_table():
    table, ablation = (
        Suite.read(EXPERIMENTS / "coco"),
        Suite.read(EXPERIMENTS / "coco" / "ablation.yaml"),
    )
    known, wanted = trained_by(table), trained_by(ablation)
    rows = {row for row, *_ in wanted if row in {name for name, *_ in known}}
    assert rows == {"finetune", "deme_before_merge", "deme_uniform"}
    assert all(one in known for one in wanted if one[0] in rows)
    steps = {}
    for node in (node for node in ablation.nodes if node.stage == "train"):
        config = node.config
        key = (
            node.row,
            config["ranges"]["num_ranges"] if node.expert is not None else 1,
            config["projection"]["placement"],
        )
        steps[key] = steps.get(key, 0) + config["num_steps"]
    assert {key[1:] for key in steps} == {
        (1, None),
        (2, "blocks"),
        (4, "blocks"),
        (8, "blocks"),
        (4, None),
        (4, "foldable"),
    }
    assert set(steps.values()) == {80_000}


def test_the_cost_of_images_by_prompts_counts_guidance_and_the_step_that_pndm_takes_twice():
    (before,) = Suite.read(EXPERIMENTS / "coco").evaluations("before")
    assert before.num_forward_passes == 30_000 * 2 * 26
    (scored,) = Suite.read(EXPERIMENTS / "partiprompts").evaluations("before")
    assert scored.num_forward_passes == 1_632 * 2 * 26  # scores alone need images, too
    searches = [node for node in Suite.read(EXPERIMENTS / "coco").nodes if node.stage == "search"]
    assert [node.num_forward_passes for node in searches] == [48 * 5_000 * 2 * 11]


def test_runs_that_another_table_wants_are_not_stale(in_tmp):
    row = {"name": "before", "label": "before", "evaluate": ["metrics=loss"]}
    spec = {
        "suite": "both",
        "baseline": "before",
        "metrics": ["loss"],
        "finetune_seeds": [0],
        "rows": [row],
    }
    for name, seed, other in (("one", 1, "two.yaml"), ("two", 2, "one.yaml")):
        Path(f"{name}.yaml").write_text(
            yaml.safe_dump({**spec, "sample_seeds": [seed], "runs_shared_with": [other]})
        )
    Path("alone.yaml").write_text(yaml.safe_dump({**spec, "sample_seeds": [1]}))
    Path("wrong.yaml").write_text(
        yaml.safe_dump(
            {**spec, "suite": "x", "sample_seeds": [1], "runs_shared_with": ["one.yaml"]}
        )
    )
    one, two, alone, wrong = (
        Suite.read(Path(f"{name}.yaml")) for name in ("one", "two", "alone", "wrong")
    )
    for suite in (one, two):
        files.write_json(suite.nodes[0].run.path / "status.json", {"state": "done"})
    assert one.stale() == two.stale() == []
    assert alone.stale() == [two.nodes[0].run.path]
    with pytest.raises(BadConfig, match=r"runs_shared_with .*one\.yaml"):
        wrong.stale()


@pytest.mark.parametrize(
    ("name", "suite"),
    [
        ("ddpm_cifar10", "cifar10"),
        ("ddpm_lsun256", "lsun_church"),
        ("ddpm_compact", "cifar10_compact"),
    ],
)
def test_the_cost_of_a_forward_pass_is_what_the_suite_says(name, suite):
    from diffusers import UNet2DModel
    from torch.utils.flop_counter import FlopCounterMode

    from deme.runs import compose_stage

    unet = compose_stage("train", [f"model={name}"])["model"]["unet"]
    with torch.device("meta"):
        network = UNet2DModel(
            **{
                key: tuple(value) if isinstance(value, list) else value
                for key, value in unet.items()
            }
        )
        size = unet["sample_size"]
        with FlopCounterMode(display=False) as counter:
            network.eval()(torch.zeros(1, 3, size, size), torch.zeros(1, dtype=torch.long))
    said = Suite.read(EXPERIMENTS / suite).settings.plan.gflop_per_forward_pass
    assert said == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-3)


def test_the_cost_of_stable_diffusion_is_what_its_suites_say():
    from diffusers import UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad():
        network = UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768
        ).eval()  # the rest is the default
        assert sum(weight.numel() for weight in network.parameters()) == 859_520_964
        with FlopCounterMode(display=False) as counter:
            network(
                torch.zeros(1, 4, 64, 64), torch.zeros(1, dtype=torch.long), torch.zeros(1, 77, 768)
            )
    said = {
        Suite.read(EXPERIMENTS / name).settings.plan.gflop_per_forward_pass
        for name in (*STABLE_DIFFUSION, "coco/ablation.yaml")
    }
    assert list(said) == [pytest.approx(counter.get_total_flops() / 1e9, rel=1e-3)]


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_images_of_another_size_and_channel_count_take_one_override_each(mode, channels, tmp_path):
    (tmp_path / "mine").mkdir()
    for index in range(40):
        Image.effect_noise((14, 20), 40 + index).convert(mode).save(
            tmp_path / "mine" / f"{index}.png"
        )
    small = [word for word in TINY_TRAIN if not word.startswith("num_steps")]
    words = ["data=mine/", "passport.num_images=16", "compute.threads=1"]
    unet = ["model=digits_unet", "model.unet.sample_size=12", f"model.unet.in_channels={channels}"]
    base = done(["train", "method=pretrain", *unet, *words, *small, "num_steps=3"], tmp_path)
    model = f"model={base.relative_to(tmp_path)}/weights/ema"
    experts = [done(["train", model, "method=deme", f"expert={i}", "ranges.num_ranges=2", *words, *small, "num_steps=2"], tmp_path)
               for i in (0, 1)]  # fmt: skip
    merged = done(["merge", model, f"inputs.experts=[{experts[0]},{experts[1]}]"], tmp_path)
    evaluate = [word for word in TINY_EVALUATE if not word.startswith("num_images")]
    found = done(["evaluate", model, "data=mine/", "metrics=loss", "save_images=png", "num_images=6", *evaluate,
                  f"inputs.weights={merged}"], tmp_path)  # fmt: skip
    with Image.open(next((found / "samples" / "images").glob("*.png"))) as image:
        assert image.size == (12, 12)
        assert len(image.getbands()) == channels


def test_a_run_stands_for_its_weights_and_a_folder_for_an_option(tmp_path):
    base = done(
        ["train", "model=digits_unet", "method=pretrain", *TINY_TRAIN, "num_steps=2"], tmp_path
    )
    run_dir = base.relative_to(tmp_path)
    words = ["data=digits", *TINY_TRAIN, "num_steps=1", "passport.num_images=16"]
    one = done(["train", f"model={run_dir}", *words], tmp_path)
    code, text = run(
        ["train", "model=diffusers", f"model.path={run_dir}/weights/ema", *words], tmp_path
    )
    assert code == 0, text
    assert f"{one.relative_to(tmp_path)} is done already" in text
    code, text = run(
        ["train", "model=diffusers", f"model.path={run_dir}", *words, "seed=5"], tmp_path
    )
    assert code == 3, text
    assert f"it is a run; type: model.path={run_dir}/weights/ema" in text


def test_a_file_that_extends_another_adds_rows_and_replaces_keys(in_tmp):
    Path("shared.yaml").write_text(
        "suite: s\nbaseline: one\nmetrics: [loss]\nfinetune_seeds: [0]\nsample_seeds: [1]\n"
        "common: {merge: [a=1], evaluate: [experiment=$name/evaluate]}\n"
        "rows: [{name: one, label: $name, evaluate: []}, {name: two, label: '2', evaluate: []}]\n"
    )
    Path("s.yaml").write_text(
        "extends: shared.yaml\nvariables: {name: mine}\nsample_seeds: [2]\ncommon: {merge: [b=1]}\n"
        "rows: [{name: three, label: '3', after: one, evaluate: []}]\n"
    )
    settings = Suite.read(Path("s.yaml")).settings
    assert [row.name for row in settings.rows] == ["one", "three", "two"]
    assert settings.rows[0].label == "mine"
    assert settings.common.evaluate == ("experiment=mine/evaluate",)
    assert settings.common.merge == ("b=1",)
    assert settings.sample_seeds == (2,)
    Path("s.yaml").write_text("extends: shared.yaml\nrows: [{name: one, label: '3'}]\n")
    with pytest.raises(BadConfig, match=r"s\.yaml, line 2: two rows have the name one"):
        Suite.read(Path("s.yaml"))


def runs_of(name):
    nodes = Suite.read(EXPERIMENTS / name).nodes  # raw weights have names of their own
    return [(n.title, n.overrides, n.values) for n in nodes if n.row != "before_raw"]


def test_tables_of_one_kind_are_made_of_the_same_runs():
    cifar10, church, bedroom = map(runs_of, ("cifar10", "lsun_church", "lsun_bedroom"))
    assert json.loads(json.dumps(cifar10).replace("cifar10", "lsun_bedroom")) == [
        list(run) for run in bedroom
    ]
    others = [run for run in church if not run[0].startswith("deme_church")]
    assert len(church) - len(others) == 3 * (1 + 3)
    assert json.dumps(others).replace("lsun_church", "cifar10") == json.dumps(cifar10)
    coco, *prompted = map(runs_of, STABLE_DIFFUSION)
    for name, runs in zip(STABLE_DIFFUSION[1:], prompted, strict=True):
        assert json.dumps(runs).replace(f"{name}/", "coco/") == json.dumps(coco)


SUITE = {"suite": "s", "baseline": "before", "metrics": ["loss"], "finetune_seeds": [0], "sample_seeds": [1],
         "rows": [{"name": "base", "label": "b", "train": []}, {"name": "before", "label": "x", "evaluate": []}]}  # fmt: skip
TWO = SUITE["rows"]


@pytest.mark.parametrize(
    ("change", "expected", "parts"),
    [
        ({"pretrained_by": ["base"]}, None, ["pretrained_by must be a text"]),
        ({"pretrained_by": "before"}, None, ["'before' must be a row with a train stage"]),
        ({"pretrained_by": "base", "rows": [*TWO, {"name": "r", "label": "r", "experts_of": "base"}]}, None,
         ["'base'", "experts_of"]),
        ({"runs_shared_with": "../coco"}, None, ["runs_shared_with must be a list", "'../coco'"]),
        ({"finetune_seeds": 3}, None, ["finetune_seeds must be a list", "got 3"]),
        ({"finetune_seeds": [1.5]}, None, ["finetune_seeds", "whole number", "1.5"]),
        ({"plan": {"gflop": 3}}, None, ["unknown key plan.gflop", "gflop_per_forward_pass"]),
        ({"expected": "e.json"}, {"before": 3}, ['e.json is damaged: rows is missing; it must hold {"rows"']),
        ({"expected": "e.json"}, {"rows": {"before": {"loss": "4"}}}, ["e.json is damaged: rows.before.loss must be a number; got '4'"]),
        ({"expected": "e.json"}, {"rows": {"after": {"loss": 4}}}, ["e.json has rows", "after"]),
        ({"expected": "e.json"}, {"rows": {"before": {"fid": 4}}}, ["e.json has metrics", "fid"]),
    ],
)  # fmt: skip
def test_mistakes_in_suites_are_reported_with_their_line(change, expected, parts, in_tmp):
    Path("s.yaml").write_text(yaml.safe_dump({**SUITE, **change}, sort_keys=False))
    if expected is not None:
        files.write_json(Path("e.json"), expected)
    with pytest.raises(BadConfig) as raised:
        Suite.read(Path("s.yaml"))
    line = int(str(raised.value).partition("line ")[2].partition(":")[0])
    above = Path("s.yaml").read_text().splitlines()[:line]
    keys = [text.partition(":")[0] for text in above if text[0].isalpha()]
    assert keys[-1] == next(iter(change))  # the line is inside of what was changed
    for part in parts:
        assert part in str(raised.value)


def test_published_numbers_that_are_not_there_are_missed_at_once(in_tmp):
    Path("s.yaml").write_text(yaml.safe_dump({**SUITE, "expected": "nowhere.json"}))
    with pytest.raises(MissingInput, match=r"nowhere\.json does not exist"):
        Suite.read(Path("s.yaml"))


def test_a_checkpoint_that_its_config_contradicts_trains_only_if_told_to(tmp_path):
    shutil.copytree(PACKAGE / "assets/digits_base", tmp_path / "wrong")
    place = tmp_path / "wrong/scheduler/scheduler_config.json"
    files.write_json(place, {**read_json(place), "prediction_type": "v_prediction"})
    words = ["train", "model=wrong/", *TINY_TRAIN, "num_steps=1"]
    code, text = run(words, tmp_path)
    assert code == 2, text
    assert "wrong/ states v_prediction, its own schedule" in text
    assert "epsilon" in text
    assert "type: passport.contradicted=train" in text
    code, text = run([*words, "passport.contradicted=mend"], tmp_path)
    assert (code, "passport.contradicted must be one of refuse, train; got 'mend'" in text) == (
        2,
        True,
    ), text
    trained = done([*words, "passport.contradicted=train"], tmp_path)
    assert read_json(trained / "passport.json")["verdict"] == "contradicted"
