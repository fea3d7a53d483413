"""Whatever a file or a setting holds, it is used or refused with one message: no traceback, no crash, no number that is not finite."""

import dataclasses
import datetime
import io
import json
import math
import os
import shlex
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pydantic import TypeAdapter

from deme.builders.checkpoints import open_checkpoint
from deme.builders.ranges import read_affinity
from deme.cli import hydra_app
from deme.cli.app import main
from deme.commands.compare import read_evaluations
from deme.commands.improve import _print_outcome
from deme.commands.verify import _directory, _finished, _unmodified
from deme.data.caption_files import captions_in
from deme.data.prompts import load_prompts
from deme.merging.plan import order_experts, plan_merge
from deme.merging.search.journal import Journal
from deme.metrics import statistics_file
from deme.models.checkpoint import open_weights
from deme.models.loading import load_pretrained
from deme.report.records import read_history
from deme.report.rows import SuiteResults, difference_of
from deme.runs import (
    Outcome,
    Run,
    SearchSettings,
    Suite,
    TrialPlan,
    build,
    check_options,
    compose_stage,
    content_hash,
    found_weights,
    frozen_config,
    frozen_identity,
    instantiate,
    read_status,
)
from deme.runs.config_errors import flattened
from deme.runs.inputs import find
from deme.runs.settings import SETTINGS, SuiteOptions, SuiteSettings
from deme.runs.suite_file import read_suite
from deme.runs.trusted import option_files, targets_in
from deme.system import (
    COPY_AGAIN,
    BadConfig,
    DemeError,
    MissingInput,
    WorkFailed,
    checked,
    conf_dir,
    did_you_mean,
    files,
    first_line,
    locate,
    read_json,
    reading,
    tensors,
)
from deme.system.diffusers_configs import NetworkConfig
from deme.system.errors import UNSAFE
from deme.training.callbacks import JsonlLogger
from deme.training.fit import step_of
from tests.pipeline.program import TINY_EVALUATE, TINY_EXPERTS, TINY_SEARCH, done

NASTY = [
    None, True, -1, 0, 3, 1.5, -0.5, 1e308, math.nan, math.inf, -math.inf, 2**31, 2**63, 10**30, "", "x", "x" * 5000,
    "../../../etc", "a\0b", "\x1b[31m", "1", "nan", "[]", [], {}, [1], ["a"], [None], [[1, 2], [3, 4]], [math.nan], [3, 1], {"a": 1}, {"": None},
    [1] * 100, {"a": {"a": {"a": []}}},
]  # fmt: skip
DEEP = "[" * 30_000
WHOLE = [b"", b" ", b"null", b"3", b"[]", b"{}", b'"x"', b"[1, 2]", b"\xff\xfe\x00", b"\x00" * 64, b"NaN", b"{", b"- - - [",
         DEEP.encode(), ("- " * 30_000).encode(), b"a: &a [*a]", b"%PDF-1.4", b"{\"a\": " * 200]  # fmt: skip


def places(value, path=()):
    """The paths of all values in a value, containers included."""
    found = [path]
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, each in items:
        found += places(each, (*path, key))
    return found


def replaced(value, path, new):
    """A copy of `value` with another value at `path`; DELETE takes it away."""
    if not path:
        return new
    copy = list(value) if isinstance(value, list) else dict(value)
    key, *rest = path
    if not rest and new is DELETE:
        del copy[key]
    else:
        copy[key] = replaced(copy[key], rest, new) if rest else new
    return copy


DELETE = object()
KEYS = [
    "",
    "x",
    "a.b",
    "x" * 5000,
    "a\0b",
    "../../../etc",
    "\x1b[31m",
    "NaN",
    "~nobody-of-this-name",
]


@st.composite
def changed(draw, value, dump):
    """The bytes of a file that holds `value`, after a change of one value or of some bytes."""
    kind = draw(st.integers(0, 9 if dump is not bytes else 2))
    if kind == 0:
        return draw(st.sampled_from(WHOLE))
    if kind <= 2:
        data = bytearray(dump(value))
        at = draw(st.integers(0, len(data) - 1))
        if kind == 1:
            return bytes(data[:at])
        data[at] = draw(st.integers(0, 255))
        return bytes(data)
    path = draw(st.sampled_from(places(value)[dump not in (dump_json, dump_yaml) :]))
    new = draw(st.sampled_from([*NASTY, DELETE])) if path else draw(st.sampled_from(NASTY))
    if path and isinstance(path[-1], str) and draw(st.integers(0, 4)) == 0:  # the key, too
        kept = value
        for key in path:
            kept = kept[key]
        value = replaced(value, path, DELETE)
        path, new = (*path[:-1], draw(st.sampled_from(KEYS))), kept
    return dump(replaced(value, path, new))


def dump_json(value):
    return json.dumps(value).encode()


def dump_yaml(value):
    return yaml.safe_dump(value).encode()


def dump_lines(value):
    return "".join(json.dumps(row) + "\n" for row in value).encode()


TENSORS = []


def dump_header(header):
    """A safetensors file with any header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + TENSORS[0]


def dump_npz(arrays):
    out = io.BytesIO()
    made = {}
    for name, value in arrays.items():
        try:
            made[name] = np.array(value)
        except (ValueError, OverflowError):
            made[name] = np.array([value], dtype=object)
    np.savez(out, **made, allow_pickle=True)
    return out.getvalue()


def finite(value):
    """Whether no number in a value is NaN or infinite."""
    if dataclasses.is_dataclass(value):
        return all(finite(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(finite, value))
    if isinstance(value, torch.Tensor):
        return bool(torch.isfinite(value).all())
    return not isinstance(value, float) or math.isfinite(value)


HEAD = {
    "suite": "bad",
    "baseline": "before",
    "metrics": ["loss"],
    "finetune_seeds": [0],
    "sample_seeds": [1],
}
ROWS = [
    {"name": "before", "label": "before", "evaluate": [*TINY_EVALUATE, "metrics=loss"]},
    {"name": "deme", "label": "DeMe", "train": [*TINY_EXPERTS, "num_steps=2"], "experts": [0, 1]},
    {"name": "merged", "label": "merged", "experts_of": "deme", "search": [*TINY_SEARCH, "search.step=1", "metrics=loss", "inputs.experts=null"],
     "merge": ["inputs.experts=null"], "evaluate": [*TINY_EVALUATE, "metrics=loss"]},
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a suite whose runs are done."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "s.yaml").write_text(yaml.safe_dump({**HEAD, "results": "results", "rows": ROWS}))
    done(["reproduce", "s.yaml"], folder)
    return folder


@pytest.fixture
def there(made, tmp_path, monkeypatch):
    """The working directory: a copy of that folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_of(stage):
    return sorted(Path("runs/bad", stage).iterdir())[0]


def table(_):
    return SuiteResults(Suite.read(Path("s.yaml"))).rows()


def stale(_):
    return Suite.read(Path("s.yaml")).stale()


def evaluation(_):
    one, other = sorted(Path("runs/bad/evaluate").iterdir())
    found = read_evaluations([str(one)]), read_evaluations([str(other)])
    return [difference_of("loss", *found), *found]


def audited(_):
    run = _finished(run_of("evaluate"))
    return _directory(run) and _unmodified(run)


def record(_):
    return read_history(run_of("merge"), "merged").trainings


def loaded(_):
    return list(load_pretrained("model").parameters())


def opened(_):
    base = open_checkpoint(locate("asset:digits_base"))
    models = [open_checkpoint(Path(name)) for name in ("model", "other")]
    return plan_merge(base, models, models[1].about["base"]).experts[0].noise


def ordered(_):
    return [expert.range for expert in order_experts([Path("model"), Path("other")])]


def neighbour(_):
    """The other expert is found, whatever has happened to the first."""
    found = find({"stage": "train", "cell": {"expert": 1}}, Path("runs/bad"))
    assert [path.name.partition("-s0-")[0][-3:] for path in found] == ["-e1"]


class Extractor:
    name, weights, dimension = "digits", "0" * 64, 2


def all_weights(file):
    found = open_weights(file.parent)
    return [found.read(name) for name in found.specs]


READERS = {  # file -> how it is read
    ("runs/bad/evaluate/*/status.json", dump_json): (table, stale, evaluation),
    ("runs/bad/evaluate/*/config.yaml", dump_yaml): (evaluation, audited),
    ("runs/bad/evaluate/*/metrics.json", dump_json): (table, evaluation),
    ("runs/bad/evaluate/*/replicates.json", dump_json): (table, evaluation),
    ("runs/bad/evaluate/*/run.json", dump_json): (audited,),
    ("runs/bad/merge/*/run.json", dump_json): (record,),
    ("runs/bad/merge/*/config.yaml", dump_yaml): (record,),
    ("runs/bad/train/*/config.yaml", dump_yaml): (record, neighbour),
    ("runs/bad/train/*/status.json", dump_json): (neighbour, stale),
    ("runs/bad/search/*/best.json", dump_json): (lambda _: found_weights(run_of("search")),),
    ("runs/bad/search/*/evaluations.jsonl", dump_lines): (lambda file: [one.weights for _, one in Journal(file)._left],),
    ("model/deme.json", dump_json): (ordered,),
    ("model/unet/config.json", dump_json): (opened,),
    ("model/scheduler/scheduler_config.json", dump_json): (loaded,),
    ("model/model_index.json", dump_json): (loaded,),
    ("model/unet/diffusion_pytorch_model.safetensors", dump_header): (opened,),
    ("model/scheduler/*", dump_json): (opened,),
    ("s.yaml", dump_yaml): (lambda file: read_suite(file)[1],),
    ("expected.json", dump_json): (lambda _: Suite.read(Path("e.yaml")).expected,),
    ("prompts.jsonl", dump_lines): (lambda file: list(load_prompts(str(file), "text", "seed")),),
    ("images.json", dump_json): (lambda file: captions_in(file, None),),
    ("prompts.csv", bytes): (lambda file: list(load_prompts(str(file), "text", "seed")),),
    ("metadata.csv", bytes): (lambda file: captions_in(file, None),),
    ("last.ckpt", bytes): (step_of,),
    ("shards/diffusion_pytorch_model.safetensors.index.json", dump_json): (lambda file: list(open_weights(file.parent).specs),),
    ("pickled/diffusion_pytorch_model.bin", bytes): (all_weights,),
    ("affinity.json", dump_json): (lambda file: read_affinity(file, 2),),
    ("outcome.json", dump_json): (lambda file: _print_outcome(read_json(file, Outcome), SimpleNamespace(out="y"), 1.0),),
    ("plan.json", dump_json): (lambda file: read_json(file, TrialPlan),),
    ("metrics.jsonl", dump_lines): (lambda file: JsonlLogger(file, 1, 9).rewind(2),),
    ("runs/bad/train/*/cost.json", dump_json): (table,),
    ("statistics.npz", dump_npz): (lambda file: statistics_file.load_npz(file, Extractor())[0].covariance,),
}  # fmt: skip


def prepare(folder):
    """Write the files that are not those of runs."""
    for run, name in zip(sorted(folder.glob("runs/bad/train/*")), ("model", "other"), strict=True):
        shutil.copytree(run / "weights" / "ema", folder / name)
    (folder / "expected.json").write_text(json.dumps({"rows": {"before": {"loss": 0.1}}}))
    (folder / "e.yaml").write_text(
        yaml.safe_dump({**HEAD, "rows": ROWS, "expected": "expected.json"})
    )
    rows = [{"text": "a cat", "seed": 1}, {"text": "a dog", "seed": "2"}]
    (folder / "prompts.jsonl").write_bytes(dump_lines(rows))
    (folder / "prompts.csv").write_text('text,seed\na cat,1\n"a, dog",2\n')
    (folder / "metadata.csv").write_text("file_name,text\na.png,a cat\nb.png,a dog\n")
    state = {"global_step": 3, "state_dict": {"a": torch.ones(2)}, "optimizer_states": [], "lr_schedulers": [], "loops": {}}  # fmt: skip
    torch.save(state, folder / "last.ckpt")
    (folder / "pickled").mkdir()
    torch.save({"a": torch.ones(2)}, folder / "pickled" / "diffusion_pytorch_model.bin")
    (folder / "shards").mkdir()
    tensors.save(folder / "shards" / "1.safetensors", {"a": torch.ones(2)})
    index = {"metadata": {"total_size": 8}, "weight_map": {"a": "1.safetensors"}}
    (folder / "shards/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "affinity.json").write_text('{"cosines": [[1.0, 0.5], [0.5, 1.0]]}')
    row = {"before": 1.0, "after": 0.5, "difference": "-0.5", "verdict": "better"}
    tried = [{"idea": "merge", "score": 0.1, "num_forward_passes": 3, "seconds": 2.0}]
    outcome = {"metric": "loss", "better": True, "metrics": {"loss": row}, "idea": "merge", "model": "m", "weights": [1.0], "tried": tried}  # fmt: skip
    (folder / "outcome.json").write_text(json.dumps(outcome))
    plan = {"seconds_per_step": 0.5, "seconds_for_the_rest": 1.5, "num_steps": 3}
    (folder / "plan.json").write_text(json.dumps(plan))
    rows = [{"step": 0, "loss": 1.0}, {"step": 1, "loss": None}, {"step": 2, "loss": 0.5}]
    (folder / "metrics.jsonl").write_bytes(dump_lines(rows))
    coco = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": 3, "image_id": 1, "caption": "a"}],
    }
    (folder / "images.json").write_text(json.dumps(coco))
    arrays = {
        "mu": [0.0, 1.0],
        "sigma": [[1.0, 0.0], [0.0, 1.0]],
        "count": 10,
        "extractor": "digits",
        "weights": "0" * 64,
    }
    (folder / "statistics.npz").write_bytes(dump_npz(arrays))


def value_in(file, dump):
    data = file.read_bytes()
    if dump is bytes:  # a file of no values that the test knows
        return data
    if dump is dump_json:
        return json.loads(data)
    if dump is dump_yaml:
        return yaml.safe_load(data)
    if dump is dump_lines:
        return [json.loads(line) for line in data.splitlines()]
    if dump is dump_npz:
        with np.load(file) as stored:
            return {name: stored[name].tolist() for name in stored.files}
    size = struct.unpack("<Q", data[:8])[0]
    TENSORS[:] = [data[8 + size :]]
    return json.loads(data[8 : 8 + size])


def forget_sizes(file):
    """Take the sizes of a run's outputs out of its status.json: they would say it first."""
    status = file.parent / "status.json"
    if status.exists() and file != status:
        found = json.loads(status.read_text())
        found.pop("outputs", None)
        status.write_text(json.dumps(found))


def check_message(text):
    assert text.strip()
    assert len(text.splitlines()) <= 25, text
    assert len(text) < 20_000, text
    assert not UNSAFE.search(text), text


def check_reader(pattern, dump, readers, examples, number):
    (file, *_) = sorted(Path().glob(pattern))
    forget_sizes(file)
    value = value_in(file, dump)
    for read in readers:
        assert finite(read(file))  # what is right is read

    @seed(number)
    @settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(changed(value, dump), st.sampled_from(readers))
    def check(data, read):
        file.write_bytes(data)
        try:
            found = read(file)
        except DemeError as error:
            check_message(str(error))
        else:
            assert finite(found), found

    check()


@pytest.mark.parametrize(("pattern", "dump"), READERS, ids=[name for name, _ in READERS])
def test_a_damaged_file_is_refused_in_one_message(pattern, dump, there):
    prepare(there)
    check_reader(pattern, dump, READERS[pattern, dump], 75, 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(("pattern", "dump"), READERS, ids=[name for name, _ in READERS])
def test_many_damaged_files_are_refused_in_one_message(pattern, dump, number, there):
    prepare(there)
    check_reader(pattern, dump, READERS[pattern, dump], 500, number)


VALUES = ["null", "nan", "inf", "-inf", "-1", "0", "1", "2", "1.5", "1e400", "-1e-400", "1e300", "9" * 25, "-" + "9" * 25, "9" * 5000, "[1]", "[]",
          "[nan]", "[[1]]", "{a: 1}", "{}", "abc", "''", "true", "'a=b'", "a=b", "a#b", "a,b", "a(b)", "[1,2,3]", "[3,3]", "1_000", "'1'", "${x}", "???", "x" * 300,
          "'a b'", "[" * 40]  # fmt: skip
COMMANDS = {
    "train": [[], ["method=deme", "expert=0", "weighting=min_snr", "learning_rate=cosine", "data=captioned_digits"],
              ["method=ant", "balancing=nash_mtl", "weighting=p2", "data=image_folder", "data.path=x", "model=diffusers", "model.path=x"],
              ["method=reweighted", "ranges=gradient", "data=cifar10", "logger=wandb"], ["method=ant", "ranges=boundaries", "projection=foldable", "compute=gpu"]],
    "evaluate": [[], ["prompts=partiprompts", "sampler=ddpm"], ["sampler=dpm_solver", "metrics=fid_pytorch", "metrics.path=x"]],
    "merge": [["inputs.experts=[x]", "merge=ties"], ["inputs.experts=[x]", "merge=dare"]],
    "search": [["inputs.experts=[x]", f"search={name}"] for name in ("grid", "cma_es", "surrogate")],
    "average": [["inputs.run=x"], ["inputs.run=x", "average=power"], ["inputs.run=x", "average=mixture"]],
    "improve": [["model=diffusers", "model.path=x", "data=digits", "out=y"]],
    "sample": [["run=x", "prompts=digits", "sampler=pndm"]],
    "publish": [[f"logger={name}"] for name in ("csv", "wandb", "tensorboard")],
    "stats": [["data=lsun_church"]],
    "verify": [["run=x"]],
    "analyze": [[], ["figure=metric_validation"],
                *([f"figure={name}", "inputs.experts=[x]", "inputs.models={y: z}", "figure.low=-1", "figure.high=1"][: 5 if name == "loss_landscape" else 3]
                  for name in ("gradient_similarity", "loss_landscape", "feature_change", "forgetting", "loss_by_timestep"))],
    "doctor": [["model=digits_base", "data=digits"]],
    "export": [["run=x", "out=y"]],
}  # fmt: skip
IMPROVE = COMMANDS["improve"][0]
CHOICES = [(stage, words) for stage, all_words in COMMANDS.items() for words in all_words]


def settled(stage, words):
    """The settings of a command; options are checked as the command does before any work."""
    found = build(SETTINGS[stage], compose_stage(stage, words))
    if stage not in ("merge", "export", "verify"):
        check_options(found)
    if isinstance(found, SearchSettings):
        instantiate(found.search)
        assert found.num_forward_passes(4) >= 0
    return found


def check_settings(choices, examples, number):
    keys = {
        (stage, *words): [
            key for key in flattened(compose_stage(stage, words)) if "_target_" not in key
        ]
        for stage, words in choices
    }

    @seed(number)
    @settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.sampled_from(choices), st.data())
    def check(choice, data):
        stage, words = choice
        key, value = (
            data.draw(st.sampled_from(keys[(stage, *words)])),
            data.draw(st.sampled_from(VALUES)),
        )
        try:
            found = settled(stage, [*words, f"{key}={value}"])
        except BadConfig as error:
            check_message(str(error))
        else:
            assert finite(found)

    check()


def test_settings_of_any_value_are_used_or_refused():
    check_settings(CHOICES, 350, 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_many_settings_of_any_value_are_used_or_refused(number):
    check_settings(CHOICES, 2500, number)


@pytest.mark.parametrize("stage", COMMANDS)
def test_every_number_in_conf_has_a_type_and_is_finite(stage):
    for words in COMMANDS[stage]:
        config = compose_stage(stage, words)
        for path in places(config):
            value = config
            for part in path:
                value = value[part]
            if type(value) not in (int, float) or path[0] == "cell":  # labels repeat other keys
                continue
            per_part = [("model", "unet"), ("method", "consistency_weight")]  # resolution, range
            lists = [] if path[:2] in per_part else [[value]]
            for bad in (math.nan, math.inf, -math.inf, 10**25, "abc", *lists, {"a": value}, True):
                with pytest.raises(BadConfig, match=r"must be|without repetition"):
                    build(SETTINGS[stage], replaced(config, path, bad))


@pytest.mark.parametrize("kind", [*SETTINGS.values(), SuiteOptions, SuiteSettings])
def test_every_number_has_a_lower_and_an_upper_bound(kind):
    def numbers(schema, place):
        if isinstance(schema, dict):
            if schema.get("type") in ("integer", "number"):
                yield place, schema.keys()
            for name, inner in schema.items():
                yield from numbers(inner, f"{place}.{name}")
        for inner in schema if isinstance(schema, list) else ():
            yield from numbers(inner, place)

    for place, keys in numbers(TypeAdapter(kind).json_schema(), kind.__name__):
        assert keys & {"minimum", "exclusiveMinimum"}, place
        assert keys & {"maximum", "exclusiveMaximum"}, place


@pytest.mark.parametrize(
    ("stage", "words", "parts"),
    [
        ("train", ["seed=null"], ["seed", "got None"]),
        ("train", ["seed=9223372036854775808"], ["seed", "64 bits"]),
        ("train", ["seed=[0,1]"], ["seed", "got [0, 1]"]),
        ("train", ["num_steps=3000000000"], ["num_steps", "at most 2,147,483,647"]),
        ("train", ["num_steps=1e6"], ["num_steps", "a whole number"]),
        ("train", ["optimizer.lr=nan"], ["optimizer.lr", "finite"]),
        ("train", ["weighting=p2", "weighting.gamma=inf"], ["weighting.gamma", "finite"]),
        ("train", ["weighting=min_snr", "weighting.gamma=-inf"], ["weighting.gamma", "finite"]),
        ("train", ["optimizer.betas=[0.9,nan]"], ["optimizer.betas.1", "finite"]),
        ("train", ["optimizer.betas=0.9"], ["optimizer.betas", "a list"]),
        ("train", ["ema.power=null"], ["ema.power", "got None"]),
        ("train", ["compute.threads=5000"], ["compute.threads", "at most 1,024"]),
        ("train", ["progress.num_workers=-1"], ["progress.num_workers", "at least 0"]),
        ("train", ["weighting=null"], ["the name of an option"]),
        ("train", ["data=[1]"], ["the name of an option"]),
        ("train", ["~weighting"], ["weighting must be given"]),
        ("train", ["~paths"], ["paths must be given"]),
        ("train", ["~compute"], ["compute must be given"]),
        ("train", ["~seed"], ["seed must be given", "refers to it"]),
        ("train", ["stage=evaluate"], ["stage", "one of train"]),
        ("train", ["seed=" + DEEP], ["nested too deep"]), ("train", ["seed=" + "[" * 9], ["cannot read the override"]),
        ("train", ["seed=" + "9" * 5000], ["too many digits"]),
        ("evaluate", ["num_images=1000000000000"], ["num_images"]),
        ("evaluate", ["num_images=2000000000", "shard_size=1"], ["shards", "type: a larger shard_size"]),
        ("evaluate", ["guidance_scale=1e300"], ["guidance_scale", "at most 1,000,000"]),
        ("search", ["inputs.experts=[x]", "max_seconds=1e300"], ["max_seconds", "at most"]),
        ("search", ["inputs.experts=[x]", "search.step=1e-300"], ["search.step must be a number, at least"]),
        ("search", ["inputs.experts=[x]", "search.low=nan"], ["search.low", "finite"]),
        ("search", ["inputs.experts=[x]", "rungs=[nan,1]"], ["rungs.0", "finite"]),
        ("search", ["inputs.experts=[x]", "search=coordinate", "search.points=3"], ["points", "at least 4"]),
        ("search", ["inputs.experts=[x]", "search=cma_es", "search.population=3"], ["population", "at least 4"]),
        ("search", ["inputs.experts=[x]", "search.low=2"], ["low", "high"]),
        ("train", ["data=none"], ["data=none", "type: data=<option>"]),
        ("train", ["optimizer.lr=0"], ["optimizer.lr", "at least"]), ("train", ["optimizer.lr=1e300"], ["optimizer.lr", "at most"]),
        ("train", ["optimizer.eps=1e300"], ["optimizer.eps", "at most"]), ("train", ["gradient_clip=1e-300"], ["gradient_clip", "at least"]),
        ("train", ["progress.preview.num_images=2000000000"], ["preview.num_images", "at most"]),
        ("train", ["model=ddpm_cifar10", "model.unet.layers_per_block=1000000000"], ["model.unet.layers_per_block", "at most 64"]),
        ("train", ["model=ddpm_cifar10", "model.scheduler.num_train_timesteps=2000000000"], ["num_train_timesteps", "at most 1,000,000"]),
        ("train", ["~progress.preview.seed"], ["progress.preview.seed must be given"]),
        ("train", ["ranges.num_ranges=2000000000"], ["ranges.num_ranges", "at most 10,000"]),
        ("evaluate", ["metrics.replicates=2000000000"], ["metrics.replicates", "at most 1,000,000"]),
        ("evaluate", ["source=real", "data=none"], ["source=real", "data=none"]),
        ("improve", [*IMPROVE, "search.step=0.0001"], ["search.step", "at least 0.001"]),
        ("improve", [*IMPROVE, "num_ranges=2000000000"], ["num_ranges", "at most 10,000"]),
        ("improve", [*IMPROVE, "num_ranges=19"], ["num_ranges=19", "merges", "search.step"]),
        ("evaluate", ["~inputs.weights"], ["inputs.weights has no value", "leave ~inputs.weights out"]),
        ("train", ["lr=1"], ["unknown key 'lr'", "did you mean 'optimizer.lr'"]),
        ("improve", ["model=digits_base", "optimizer.lr=1"], ["did you mean 'lr'"]),
        ("evaluate", ["~inputs.wieghts"], ["unknown key 'inputs.wieghts'", "did you mean 'inputs.weights'"]),
        ("improve", [*IMPROVE, "hours=1e7"], ["hours", "at most"]),
        ("improve", ["model=diffusers", "model.path=x", "data=digits", "out=y", "hours=inf"], ["hours", "finite"]),
        ("improve", ["model=diffusers", "model.path=x", "data=digits", "out=y", "sample_seeds=[1,1]"], ["sample_seeds", "[1, 1]"]),
    ],
)  # fmt: skip
def test_a_setting_without_a_meaning_is_refused_before_any_work(stage, words, parts):
    with pytest.raises(BadConfig) as caught:
        settled(stage, words)
    assert len(str(caught.value).splitlines()) <= 3
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["minutes=1e300"], "minutes"), (["minutes=nan"], "minutes"), (["minutes=0"], "minutes"), (["jobs=99999"], "jobs"), (["jobs=1.5"], "jobs"),
        (["tflops=0"], "tflops"), (["tflops=inf"], "tflops"), (["tflops=1e-300"], "tflops"), (["tflops=-1"], "tflops"),
    ],
)  # fmt: skip
def test_options_of_suites_have_bounds(words, key, capsys):
    assert main(["plan", "experiments/digits/demo.yaml", *words]) == 2
    assert f"deme: {key} must be" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"finetune_seeds": [0, 0]}, "finetune_seeds must be a list of different values"),
        ({"sample_seeds": [1, 1]}, "sample_seeds must be a list of different values"),
        ({"sample_seeds": []}, "sample_seeds must be a list of different values, at least one"),
        ({"metrics": ["loss", "loss"]}, "metrics must be a list of different values"),
        ({"rows": [{**ROWS[1], "experts": [1, 1]}, ROWS[0]]}, "row deme: experts must be a list of different values"),
        ({"rows": [{**ROWS[0], "sample_seeds": [2, 2]}]}, "row before: sample_seeds must be a list of different values"),
        ({"finetune_seeds": [2**63]}, "finetune_seeds.0 must be a number of at most 64 bits"),
        ({"plan": {"paired_sd": {"loss": {"sampling": math.inf, "finetuning": 0.0}}}}, "must be a finite number; got inf"),
    ],
)  # fmt: skip
def test_seeds_experts_and_metrics_are_given_once_each(changes, text, in_tmp):
    Path("s.yaml").write_text(yaml.safe_dump({**HEAD, "rows": ROWS[:1], **changes}))
    with pytest.raises(BadConfig) as caught:
        read_suite(Path("s.yaml"))
    assert text in str(caught.value)


def test_the_same_model_twice_is_refused(in_tmp):
    with pytest.raises(
        BadConfig, match="the same model is given twice: asset:digits_base, asset:digits_base"
    ):
        find(["asset:digits_base", "asset:digits_base"], Path())
    Path("a").mkdir()
    Path("b").symlink_to("a")
    for names in (["a", "./a"], ["a", str(in_tmp / "a")], ["a", "b"], ["asset:x", "asset:./x"]):
        names = [name.replace("x", "digits_base") for name in names]
        with pytest.raises(BadConfig, match="the same model is given twice"):
            find(names, Path())


@pytest.mark.parametrize(
    "words",
    [
        ["data=image_folder", "data.path={}"], ["model=diffusers", "model.path={}"],
        ["method=reweighted", "inputs.search=[{}]"],
    ],
)  # fmt: skip
def test_a_device_or_a_pipe_is_no_input(words, in_tmp):
    os.mkfifo("pipe")
    for place in ("pipe", "/dev/zero"):
        config = compose_stage("train", [word.format(place) for word in words])
        with pytest.raises(MissingInput, match=f"{place} is neither a file nor a folder"):
            Run.planned(config)
    assert not Path("runs").exists()


def test_an_input_that_may_not_be_read_is_named(in_tmp, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    Path("weights.npz").write_bytes(b"x")
    monkeypatch.setattr(files, "sha256", refuse)
    with pytest.raises(MissingInput, match=r"weights.npz cannot be read: Permission denied"):
        content_hash("weights.npz")


@pytest.mark.parametrize(
    "name", ["s.yaml", "config.yaml", "status.json", "prompts.json", "metadata.jsonl"]
)
def test_thirty_thousand_brackets_are_one_message(name, in_tmp):
    file = Path("runs/s/train/x", name)
    file.parent.mkdir(parents=True)
    for text in (DEEP, "- " * 30_000, '{"a":' * 30_000):
        file.write_text(text)
        if name == "config.yaml":
            file.with_name("status.json").write_text('{"state": "done"}')
        read = {"s.yaml": read_suite, "config.yaml": lambda _: frozen_config(file.parent), "status.json": lambda _: read_status(file.parent)}  # fmt: skip
        with pytest.raises(DemeError) as caught:
            read.get(name, lambda file: load_prompts(str(file)))(file)
        assert len(str(caught.value).splitlines()) <= 2
        assert len(str(caught.value)) < 400


def test_files_of_too_many_bytes_or_values_are_refused_before_they_are_read(in_tmp, monkeypatch):
    file = Path("status.json")
    with open(file, "wb") as opened:
        opened.truncate(reading.MAX_BYTES + 1)  # takes no space on the disk
    with pytest.raises(
        WorkFailed, match=r"status.json is too large: more than 256 MiB are never read"
    ):
        read_status(Path())
    Path("config.yaml").write_text(
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"b{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else '*a'] * 10)}]\n" for i in range(9)
        )
    )
    with pytest.raises(WorkFailed, match=r"its aliases stand for too many values"):
        frozen_config(Path())
    arrays = {"mu": np.zeros(2), "sigma": np.zeros((2, 2))}
    np.savez("x.npz", **arrays)
    monkeypatch.setattr(statistics_file, "MAX_BYTES", 100)
    with pytest.raises(
        WorkFailed, match=r"x.npz is not a statistics file with mu and sigma: its arrays take"
    ):
        statistics_file.load_npz(Path("x.npz"), Extractor())


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"mu": [0.0, math.nan], "sigma": [[1.0, 0.0], [0.0, 1.0]]}, "NaN or infinite"),
        ({"mu": [0.0, 1e308], "sigma": [[1.0, math.inf], [0.0, 1.0]]}, "NaN or infinite"),
        ({"mu": [0.0, 0.0]}, "it has no 'sigma"),
        ({"mu": ["a", "b"], "sigma": [[1.0, 0.0], [0.0, 1.0]]}, "mu is of type"),
        ({"mu": [0j, 1j], "sigma": [[1.0, 0.0], [0.0, 1.0]]}, "mu is of type complex128"),
        ({"mu": [0.0, 0.0], "sigma": [[1.0, 0.0], [0.0, 1.0]], "count": [1, 2]}, "count must be a whole number"),
        ({"mu": [0.0, 0.0], "sigma": [[1.0, 0.0], [0.0, 1.0]], "count": -3}, "statistics of -3 images"),
    ],
)  # fmt: skip
def test_a_statistics_file_of_other_values_is_refused(arrays, text, in_tmp):
    np.savez("x.npz", **arrays)
    with pytest.raises(WorkFailed) as caught:
        statistics_file.load_npz(Path("x.npz"), Extractor())
    assert text in str(caught.value)
    assert "allow_pickle" not in str(caught.value)


def test_a_pickle_in_an_archive_is_refused_without_advice_to_read_it(in_tmp):
    np.savez("x.npz", mu=np.array([{}], dtype=object), sigma=np.zeros((2, 2)))
    with pytest.raises(WorkFailed) as caught:
        statistics_file.load_npz(Path("x.npz"), Extractor())
    check_message(str(caught.value))


def test_a_damaged_neighbour_costs_a_warning(there, messages):
    broken = sorted(Path("runs/bad/train").iterdir())[0]
    stale_before = Suite.read(Path("s.yaml")).stale()
    (Path("runs/bad/train/other")).mkdir()
    Path("runs/bad/train/other/status.json").write_text("{")
    Path("runs/bad/train/other/config.yaml").write_text("[")
    neighbour(None)
    assert any("left out: runs/bad/train/other/status.json" in message for message in messages)
    assert Suite.read(Path("s.yaml")).stale() == stale_before
    assert table(None)
    Path("runs/bad/evaluate/other").mkdir()
    Path("runs/bad/evaluate/other/status.json").write_text('{"state": "done"}')
    Path("runs/bad/evaluate/other/metrics.json").write_text("[]")
    Path("runs/bad/evaluate/other/run.json").write_text("[]")
    assert len(read_history(run_of("merge"), "merged").evaluations) == 1
    (broken / "config.yaml").write_text("[")
    neighbour(None)


def test_what_a_file_lacks_or_has_is_said_with_file_and_key(there):
    file = run_of("evaluate") / "metrics.json"
    forget_sizes(file)
    found = json.loads(file.read_text())
    found["metrics"]["loss"]["value"] = "much"
    file.write_text(json.dumps(found))
    with pytest.raises(
        WorkFailed,
        match=r"metrics.json is damaged: metrics.loss.value must be a number; got 'much'\n",
    ):
        table(None)
    del found["metrics"]["loss"]["value"]
    file.write_text(json.dumps(found))
    with pytest.raises(
        WorkFailed, match=r"metrics.json is damaged: metrics.loss.value is missing\n"
    ):
        table(None)
    file.write_bytes(b"\xff")
    with pytest.raises(WorkFailed, match=r"metrics.json is damaged: it is not UTF-8 at byte 0\n"):
        table(None)


def test_a_metric_that_the_baseline_has_replicates_of_alone_has_no_difference(there):
    for run in Path("runs/bad/evaluate").iterdir():
        metrics = json.loads((run / "metrics.json").read_text())
        if metrics["cell"]["method"] == "before":
            forget_sizes(run / "metrics.json")
            del metrics["metrics"]["loss"]
            (run / "metrics.json").write_text(json.dumps(metrics))
    before, merged = table(None)
    assert "loss" not in before.numbers
    assert merged.numbers["loss"].difference is None


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody-of-this-name/x"])
def test_what_cannot_be_a_path_is_a_missing_input(name):
    with pytest.raises(MissingInput, match="cannot be a path"):
        locate(name)


@pytest.mark.parametrize(
    ("override", "typed"),
    [
        ("out=a=b.png", """'out="a=b.png"'"""), ("out=a#b.png", """'out="a#b.png"'"""), ("out=a(1).png", """'out="a(1).png"'"""),
        ("out=a,b.png", """'out="a,b.png"'"""),
    ],
)  # fmt: skip
def test_values_with_special_characters_get_a_hint_that_works(override, typed):
    with pytest.raises(BadConfig) as caught:
        compose_stage("sample", ["run=x", override])
    assert f"type: {typed}" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    (word,) = shlex.split(typed)
    assert compose_stage("sample", ["run=x", word])["out"] == override.removeprefix("out=")


def test_an_unknown_key_is_compared_to_the_keys_of_the_chosen_option():
    with pytest.raises(BadConfig, match=r"did you mean 'search.points'"):
        compose_stage("search", ["inputs.experts=[x]", "search=coordinate", "search.point=4"])


def test_what_an_editor_leaves_in_conf_and_other_encodings_break_nothing(in_tmp):
    Path("group").mkdir()
    Path("group/latin.yaml").write_bytes(b"# \xe9\n_target_: deme.a.b\n")
    Path("group/hidden/").mkdir()
    for link in (".#latin.yaml", "gone.yaml"):
        Path("group", link).symlink_to("user@host.123:456")
    assert [file.name for file in option_files(Path())] == ["latin.yaml"]
    assert targets_in(Path()) == {"deme.a.b"}


def test_an_evaluation_whose_inputs_are_not_named_has_none():
    found = build(SETTINGS["evaluate"], {**compose_stage("evaluate", []), "inputs": {}})
    assert found.source == "weights"


@pytest.mark.parametrize(
    "value", [datetime.date(2020, 1, 1), b"x", {1}, {math.nan}, [datetime.datetime(2020, 1, 1)], {1: 2, "a": 3}]
)  # fmt: skip
def test_values_that_json_does_not_have_are_refused(value):
    config = {
        **compose_stage("train", []),
        "optimizer": {"_target_": "torch.optim.AdamW", "x": value},
    }
    with pytest.raises(BadConfig, match=r"must be (a )?text"):
        build(SETTINGS["train"], config)
    with pytest.raises(WorkFailed, match=r"x is damaged: .*must be (a )?text"):
        checked({"a": value}, dict[str, object], "x")


def test_a_search_that_does_not_say_its_merge_is_damaged(in_tmp):
    Path("best.json").write_text('{"weights": [1.0], "score": 0.5, "merge": {}}')
    with pytest.raises(WorkFailed, match=r"best.json is damaged: merge._target_ is missing"):
        found_weights(Path())


def test_a_frozen_config_that_is_no_file_is_not_read(in_tmp):
    os.mkfifo("pipe")
    Path("folder").mkdir()
    for name, what in (("pipe", "no file"), ("folder", "a folder")):
        with pytest.raises(MissingInput, match=f"{name} is {what}"):
            frozen_identity(Path(name))


def test_a_bound_of_ours_is_not_called_damage():
    with pytest.raises(WorkFailed) as caught:
        checked({"layers_per_block": 65}, NetworkConfig, "config.json", COPY_AGAIN)
    assert str(caught.value) == (
        "config.json is not read here: layers_per_block must be a whole number, at most 64, "
        "or a list; got 65"
    )


def test_no_suggestion_is_the_word_itself():
    assert did_you_mean("seed", ["seed", "seeds"]) == "did you mean 'seeds'? "
    assert did_you_mean("seed", ["seed"]) == ""


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Object arrays cannot be loaded when allow_pickle=False", "ValueError"),
        ("This file contains pickled (object) data. If you trust the file you can load it unsafely using the `allow_pickle=` keyword argument or `pickle.load()`.",
         "This file contains pickled (object) data."),
        ("Weights only load failed. Re-running `torch.load` with `weights_only` set to `False` will likely succeed, but it can result in arbitrary code execution.", "Weights only load failed."),
        ("The repository contains custom code. Please pass the argument `trust_remote_code=True` to allow custom code to be run.", "The repository contains custom code."),
        ("Exceeds the limit (4300 digits) for integer string conversion; use sys.set_int_max_str_digits() to increase the limit", "Exceeds the limit (4300 digits) for integer string conversion"),
        ("\n  size mismatch. You may consider adding `ignore_mismatched_sizes=True` in the model `from_pretrained` method.", "size mismatch."),
        ("", "ValueError"),
    ],
)  # fmt: skip
def test_no_librarys_advice_to_switch_a_check_off_is_passed_on(text, left):
    assert first_line(ValueError(text)) == left


def test_every_failed_job_of_a_sweep_is_named_also_of_jobs_in_other_processes(
    in_tmp, monkeypatch, capfd
):
    def in_children(command, args, job):
        """As the launchers of joblib and submitit do: a process for each job."""
        for expert in (9, 0, 8):
            words = ["method=deme", "ranges.num_ranges=2", f"expert={expert}"]
            child = os.fork()
            if not child:
                with initialize_config_dir(str(conf_dir()), version_base="1.3"):
                    config = compose("train", words, return_hydra_config=True)
                config.hydra.mode, config.hydra.overrides.task = "MULTIRUN", words
                HydraConfig.instance().set_config(config)
                job(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]))
                os._exit(0)
            os.waitpid(child, 0)

    def fail(config):
        if config["expert"] > 1:
            raise (BadConfig if config["expert"] == 9 else MissingInput)(
                f"no expert {config['expert']}"
            )
        return Path()

    monkeypatch.setattr(hydra_app, "_hydra_main", in_children)
    monkeypatch.setattr(hydra_app, "stage_function", lambda _: fail)
    assert main(["train", "-m", "method=deme", "ranges.num_ranges=2", "expert=9,0,8"]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert "deme: expert=9: no expert 9" in lines
    assert "deme: expert=8: no expert 8" in lines
    assert len([line for line in lines if line.startswith("deme: ")]) == 2


@pytest.mark.parametrize(("data", "text"), [(f"seed: {DEEP}".encode(), "nested too deep"), (b"seed: \xff", "utf-8"), (b"seed: [", "expected the node content"), (b"seed: .nan", "seed must be a finite number")])  # fmt: skip
def test_a_file_of_the_configuration_is_refused_in_one_message(data, text, in_tmp, capsys):
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/mine.yaml").write_bytes(b"# @package _global_\n" + data)
    assert main(["train", "--config-dir", str(in_tmp / "conf"), "experiment=mine"]) == 2
    message = capsys.readouterr().err
    assert text in message
    assert len(message.splitlines()) <= 3
    assert not Path("runs").exists()


MAY_BE_NULL = {
    "train": {"adapter", "balancing", "copy", "ema", "expert", "gradient_clip"},
    "evaluate": {"data", "prompts", "seed", "guidance_scale", "save_images", "held_out_part"},
    "merge": {"seed", "weights_by_name", "dtype"},
    "search": {"data", "prompts", "seed", "objective", "max_images", "max_seconds", "guidance_scale"},
    "average": {"seed", "expert", "dtype"},
    "improve": {"adapter", "prompts", "steps_per_expert", "hours", "guidance_scale"},
    "sample": {"run", "prompts", "num_images", "guidance_scale", "size"},  # a run of null is refused where it is looked for
    "stats": {"out"},
    "verify": {"compute", "pick_seed"},
    "analyze": {"data", "run"},
    "doctor": {"model", "data"},
    "export": {"boundary_ratio", "license", "push"},
}  # fmt: skip
MAY_BE_ABSENT = {
    "verify": {"compute"},
    "doctor": {"model", "data"},
    "train": {
        "adapter",
        "copy",
        "export",
        "snapshots",
        "run_weights",
        "timestep_density",
    },  # these are in no run of an earlier version
    "evaluate": {"run_weights", "held_out_part"},
    "improve": {"adapter", "timestep_density", "weighting"},
    "merge": {"lora", "run_weights"},
    **{key: {"run_weights"} for key in ("search", "average")},
}
BASE_IDEA = {
    "overrides",
    "swept",
    "logger",
}  # of a run: what it was made with, which its name follows from


@pytest.mark.parametrize("stage", COMMANDS)
def test_a_key_is_null_or_absent_only_where_that_means_something(stage):
    def accepted(config):
        try:
            return bool(build(SETTINGS[stage], config))
        except BadConfig:
            return False

    config = compose_stage(stage, COMMANDS[stage][0])
    keys = {field.name for field in dataclasses.fields(SETTINGS[stage])}
    tracked = {"logger"} & keys  # null: nowhere
    null = {key for key in keys if accepted({**config, key: None})}
    assert null == MAY_BE_NULL.get(stage, set()) | tracked
    without = {key for key in keys if accepted({k: v for k, v in config.items() if k != key})}
    assert without == MAY_BE_ABSENT.get(stage, set()) | (BASE_IDEA if "cell" in keys else set())
