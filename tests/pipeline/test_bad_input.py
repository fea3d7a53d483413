"""Whatever a file or a setting holds, it is used or refused with one message: no traceback, no crash, no number that is not finite."""

import dataclasses
import io
import json
import math
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from deme.builders.checkpoints import open_checkpoint
from deme.commands.compare import difference_of, read_evaluations
from deme.commands.verify import _directory, _finished, _unmodified
from deme.data.caption_files import captions_in
from deme.data.prompts import load_prompts
from deme.merging.plan import order_experts, plan_merge
from deme.merging.search.journal import Journal
from deme.metrics import statistics_file
from deme.models.loading import load_pretrained
from deme.report.records import read_record
from deme.report.rows import table_rows
from deme.runs import SearchSettings, Suite, build, check_options, compose_stage, found_weights
from deme.runs.config_errors import flattened
from deme.runs.inputs import find
from deme.runs.settings import SETTINGS
from deme.runs.suite_file import read_suite
from deme.system import BadConfig, DemeError, locate
from deme.system.errors import UNSAFE
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
        copy[key] = replaced(copy[key], rest, new)
    return copy


DELETE = object()


@st.composite
def changed(draw, value, dump):
    """The bytes of a file that holds `value`, after a change of one value or of some bytes."""
    kind = draw(st.integers(0, 9))
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
    return table_rows(Suite.read(Path("s.yaml")))


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
    return read_record(run_of("merge"), "merged").trainings


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
    assert [path.name[:7] for path in found] == ["deme-e1"]


class Extractor:
    name, weights, dimension = "digits", "0" * 64, 2


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


def check_message(text):
    assert text.strip()
    assert len(text.splitlines()) <= 25, text
    assert len(text) < 20_000, text
    assert not UNSAFE.search(text), text


def check_reader(pattern, dump, readers, examples, number):
    (file, *_) = sorted(Path().glob(pattern))
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
@pytest.mark.parametrize("number", range(1, 4))
@pytest.mark.parametrize(("pattern", "dump"), READERS, ids=[name for name, _ in READERS])
def test_many_damaged_files_are_refused_in_one_message(pattern, dump, number, there):
    prepare(there)
    check_reader(pattern, dump, READERS[pattern, dump], 1000, number)


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
    "improve": [["model=diffusers", "model.path=x", "data=digits", "out=y"]],
    "sample": [["run=x", "prompts=digits", "sampler=pndm"]],
    "stats": [["data=lsun_church"]],
    "verify": [["run=x"]],
    "analyze": [[], ["figure=metric_validation"]],
    "doctor": [["model=digits_base", "data=digits"]],
    "export": [["run=x", "out=y"]],
}  # fmt: skip
CHOICES = [(stage, words) for stage, all_words in COMMANDS.items() for words in all_words]


def settled(stage, words):
    """The settings of a command; options are checked as the command does before any work."""
    found = build(SETTINGS[stage], compose_stage(stage, words))
    if stage not in ("merge", "export", "verify"):
        check_options(found)
    if isinstance(found, SearchSettings):
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
@pytest.mark.parametrize("number", range(1, 4))
def test_many_settings_of_any_value_are_used_or_refused(number):
    check_settings(CHOICES, 5000, number)


@pytest.mark.parametrize("stage", COMMANDS)
def test_every_number_in_conf_has_a_type_and_is_finite(stage):
    for words in COMMANDS[stage]:
        config = compose_stage(stage, words)
        for path in places(config):
            value = config
            for part in path:
                value = value[part]
            # labels repeat other keys; arguments of diffusers' classes are theirs
            if (
                type(value) not in (int, float)
                or path[0] == "cell"
                or path[:2] in (("model", "unet"), ("model", "scheduler"))
            ):
                continue
            for bad in (math.nan, math.inf, -math.inf, 10**25, "abc", [value], {"a": value}, True):
                with pytest.raises(BadConfig, match=r"must be|without repetition"):
                    build(SETTINGS[stage], replaced(config, path, bad))
