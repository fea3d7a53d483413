"""Models on the Hub, and what tells one from another; names and places that lead nowhere else."""

import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
import yaml

from deme.runs import Run, Suite, compose_stage, content_hash, run_settings
from deme.system.errors import BadConfig, MissingInput
from deme.system.paths import below, is_file_name, locate


class Hub:
    """A repository, its cache, and what was asked of the network."""

    def __init__(self, files, cache, online=True):
        self.files, self.cache, self.online, self.asked = files, cache, online, []

    def snapshot_download(self, name, revision, allow_patterns, local_files_only):
        if local_files_only:
            if not self.cache.exists():
                raise FileNotFoundError(name)
            return str(self.cache)
        self.asked.append(allow_patterns)
        if not self.online:
            raise ConnectionError("no network")
        for file in self.files:
            if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns):
                (self.cache / file).parent.mkdir(parents=True, exist_ok=True)
                (self.cache / file).write_text(file)
        return str(self.cache)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    def make(files, online=True):
        made = Hub(files, tmp_path / "cache", online)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
        return made

    return make


def fetched(made):
    return sorted(str(p.relative_to(made.cache)) for p in made.cache.rglob("*") if p.is_file())


def test_pickles_are_fetched_only_when_there_are_no_safetensors(hub):
    both = [
        "config.json",
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.safetensors",
        "training.bin",
    ]
    made = hub(both)
    locate("hub:somebody/both")
    assert fetched(made) == ["config.json", "diffusion_pytorch_model.safetensors"]
    assert len(made.asked) == 1
    locate("hub:somebody/both")
    assert len(made.asked) == 1  # in the cache


@pytest.mark.parametrize(
    "name", ["diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.bin"]
)
def test_a_repository_of_pickles(hub, name):
    made = hub(["config.json", name, "optimizer.bin"])
    locate("hub:somebody/old")
    assert fetched(made) == sorted(["config.json", name])
    assert len(made.asked) == 2
    locate("hub:somebody/old")
    assert len(made.asked) == 2


def test_a_cache_of_configs_alone_is_not_the_model(hub):
    made = hub(["config.json"], online=False)
    made.cache.mkdir()
    (made.cache / "config.json").write_text("{}")
    with pytest.raises(
        MissingInput,
        match=r"cannot be downloaded: no network\nwhere there is a network, type: hf download",
    ):
        locate("hub:somebody/half")


def test_a_model_of_pickles_is_known_by_its_bytes(tmp_path):
    for name, content in (("one", b"1"), ("two", b"2")):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "unet" / "config.json").write_text("{}")
        (tmp_path / name / "unet" / "diffusion_pytorch_model.bin").write_bytes(content)
    assert content_hash(tmp_path / "one") != content_hash(tmp_path / "two")


OUTSIDE = ["..", "../x", "a/../../x", "/etc", "~", "a/b", ".hidden", "", "-x", "a\nb", "a\x00b", "\x1b[31m", "x" * 101,
           "\u4f60" * 34, "a,b", "a=b", "a b", "{x}", "$(x)"]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_of_files_stay_where_they_are(name):
    assert not is_file_name(name)


@pytest.mark.parametrize("name", ["digits", "cifar10_compact", "p2+k-1", "v1.0", "\u4f60\u597d", "0", "x" * 100])  # fmt: skip
def test_names_of_files(name):
    assert is_file_name(name)


def test_below_a_folder(tmp_path):
    (tmp_path / "link").symlink_to("/")
    for place in ("a", "a/b", "./a", "a/../b", "link/x", str(tmp_path / "a")):
        assert below(tmp_path, place) == tmp_path / place
    for place in ("..", "../x", "a/../../x", "/etc/passwd", f"{tmp_path}x"):
        with pytest.raises(BadConfig):
            below(tmp_path, place)


def test_shipped_files_are_in_the_package():
    assert locate("asset:digits_base/unet/config.json").is_file()
    for name in ("asset:../cli/app.py", "asset:/etc/passwd", "asset:digits_base/../../__init__.py"):
        with pytest.raises(BadConfig):
            locate(name)


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_of_a_run_leads_out_of_the_folder_of_runs(name):
    """Nor out of it where a run directory of somebody else says so."""
    given = compose_stage("train", [])
    for place in ("suite", "stage"):
        with pytest.raises(BadConfig, match=place):
            run_settings({**given, place: name})
    for key in ("method", "expert", "seed", "sample_seed"):
        with pytest.raises(BadConfig, match=f"cell.{key}|cell"):
            run_settings({**given, "cell": {**given["cell"], key: name}})
    merge = compose_stage("merge", ["inputs.experts=null"])
    with pytest.raises(BadConfig, match="stage"):
        Run.planned({**merge, "inputs": {"experts": {"stage": name, "cell": {}}, "search": None}})


def test_labels_that_name_no_file_are_lines():
    given = compose_stage("train", [])
    settings = run_settings({**given, "cell": {"data": "my images, 64 x 64 (cropped)", "k": 3}})
    assert settings.cell["data"] == "my images, 64 x 64 (cropped)"
    for label in ("x" * 301, "two\nlines", "\x1b[31m", "\u202e"):
        with pytest.raises(BadConfig):
            run_settings({**given, "cell": {"data": label}})


SUITE = {"suite": "s", "baseline": "before", "metrics": ["loss"], "finetune_seeds": [0], "sample_seeds": [1],
         "rows": [{"name": "before", "label": "before", "evaluate": []}]}  # fmt: skip


def read(folder, **changes):
    (folder / "s.yaml").write_text(yaml.safe_dump({**SUITE, **changes}))
    return Suite.read(folder / "s.yaml")


def test_where_a_suite_writes(tmp_path):
    assert read(tmp_path).results == tmp_path / "results"
    assert read(tmp_path, results="runs/mine/results").results == Path("runs/mine/results")
    for place in ("/elsewhere", "..", "a/../../b", "../results"):
        with pytest.raises(BadConfig, match="results must be a folder below the current one"):
            read(tmp_path, results=place)
    read(tmp_path)
    own = Suite.read(tmp_path / "s.yaml", results=Path("/elsewhere"))
    assert own.results == Path("/elsewhere")  # the user's own word, on the command line


@pytest.mark.parametrize("name", [name for name in OUTSIDE if "\x00" not in name])
def test_no_name_in_a_suite_leads_out_of_it(tmp_path, name):
    for changes in (
        {"suite": name},
        {"rows": [{"name": name, "label": "x", "evaluate": []}], "baseline": name},
    ):
        with pytest.raises(BadConfig, match=r"s.yaml, line \d+"):
            read(tmp_path, **changes)


def test_texts_of_a_suite_are_lines(tmp_path):
    for changes in (
        {"title": "x\x1b[31m"},
        {"metrics": ["a\nb"]},
        {"rows": [{"name": "before", "label": "x" * 301, "evaluate": []}]},
    ):
        with pytest.raises(BadConfig, match="a line of at most 300 characters"):
            read(tmp_path, **changes)
