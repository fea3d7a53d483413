"""Models on the Hub, and what tells one from another."""

import fnmatch

import huggingface_hub
import pytest

from deme.runs import content_hash
from deme.system.errors import MissingInput
from deme.system.paths import locate


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
