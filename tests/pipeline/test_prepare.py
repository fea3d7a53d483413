"""`deme prepare`: from what a suite's runs read to the files, from a server on this machine."""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from deme.cli.app import main
from deme.commands import prepare_install
from deme.commands.prepare_items import needed_items
from deme.models.layout import UNET
from deme.runs import Suite, compose_stage, needed_files, read_sources
from deme.runs.config_errors import options
from deme.runs.settings import HASHED_PATH_KEYS, SourceSettings, build
from deme.system import downloads, files, official_files
from deme.system.errors import BadConfig
from deme.system.official_files import BINARY
from deme.system.paths import PACKAGE
from tests import cifar10, fashion
from tests.original_ddpm import CIFAR, network
from tests.pipeline.program import run
from tests.pipeline.test_experiments import PRETEND, with_a_smaller_network
from tests.web import sends, serving

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SUITES = sorted(
    place.relative_to(EXPERIMENTS).as_posix()
    for place in EXPERIMENTS.glob("*/*.yaml")
    if place.name != "files.yaml" and place.parent.name != "shared"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("DEME_DATA", "DEME_MODELS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def web():
    with serving() as found:
        yield found


# what the suites read


def texts(node):
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [node] if isinstance(node, str) else [text for each in inner for text in texts(each)]


@pytest.mark.parametrize("name", SUITES)
def test_every_file_that_a_suite_reads_has_an_entry_and_every_entry_is_read(name, in_tmp):
    suite = Suite.read(EXPERIMENTS / name)
    items = needed_items(suite)
    assert [item.place for item in items if item.source is None] == []
    covered = [item.place for item in items]
    for node in suite.nodes:  # as the resolved configurations say it
        config = {key: value for key, value in node.config.items() if key != "paths"}
        if node.base is not None:  # a run makes its model
            del config["model"]["path"]
        named = {text for text in texts(config) if re.fullmatch(r"(data|models)(/.*)?", text)}
        roots = named & {"data", "models"}
        known = official_files.official_files(config["data"]) if config.get("data") else None
        assert roots == ({"data"} if known else set())
        for place in named - roots:
            assert any(place == one or place.startswith(f"{one}/") for one in covered), place
        for official in known or ():
            assert official.path.as_posix() in covered
    if name.endswith("/suite.yaml") and "files.yaml" in suite.settings.files:
        own = read_sources(suite.file.parent / "files.yaml")
        assert {source.place for source in own.values()} <= set(covered)


def test_the_papers_tables_read_what_they_are_known_to_read(in_tmp):
    def places(name):
        return {item.place for item in needed_items(Suite.read(EXPERIMENTS / name))}

    assert places("digits") == set()
    assert places("cifar10/smoke.yaml") == {"data/cifar-10-binary.tar.gz"}
    assert places("cifar10") == places("ablation") | {"models/ddpm-cifar10-32"}
    assert places("partiprompts") < places("coco") | places("partiprompts")
    assert {"data/val2014", "data/coco_val2014_256.npz"} < places("coco")


def test_a_data_option_reads_hashed_places_or_official_files(in_tmp):
    """What else a run reads would be missed by its identity, and by plan and prepare."""
    for option in options("data"):
        data = compose_stage("train", [f"data={option}"], ("data.path", "model.path"))["data"]
        below = {k for k, v in (data or {}).items() if isinstance(v, str) and v.startswith("data")}
        assert below <= {*HASHED_PATH_KEYS} or official_files.official_files(data) is not None, (
            option
        )


def test_facts_are_those_of_the_libraries_that_know_them():
    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.imagenet import ARCHIVE_META

    entries = {
        name: source
        for p in EXPERIMENTS.glob("*/files.yaml")
        for name, source in read_sources(p).items()
    }
    assert entries["cifar10"].md5 == BINARY.md5[BINARY.archive]
    assert entries["cifar10"].file_name == BINARY.archive
    known = dict(FashionMNIST.resources)
    for name in ("fashion_mnist_train", "fashion_mnist_test"):
        assert entries[name].md5 == known[entries[name].file_name]
        assert entries[name].url.removesuffix(entries[name].file_name) in FashionMNIST.mirrors
    images = entries["imagenet_images"]
    assert (images.name, images.md5) == ARCHIVE_META["val"]
    inception = entries["inception"]
    assert inception.sha256.startswith(re.search(r"-(\w{8})\.pth$", inception.url)[1])
    for name, source in entries.items():
        assert source.make or (source.licence and source.source and source.download), name
        assert not source.tried  # say so here once somebody has


# suites of one row, on a server of this machine


def packed(folder, name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, Path(name) / file.relative_to(folder))
    return buffer.getvalue()


def image_folder(place):
    place.mkdir(parents=True)
    for index in range(20):
        Image.effect_noise((8, 8), 40 + index).save(place / f"{index}.png")
    return place


ROW = ["model=diffusers", "model.path=${paths.models}/base", "data=image_folder",
       "data.path=${paths.data}/images", "metrics=fid_pytorch",
       "metrics.path=${paths.models}/network.pth"]  # fmt: skip


def write(entries, row=ROW):
    spec = {"suite": "mine", "baseline": "before", "metrics": ["loss"], "finetune_seeds": [0], "sample_seeds": [1],
            "files": ["files.yaml"], "rows": [{"name": "before", "label": "before", "evaluate": row}]}  # fmt: skip
    Path("suite.yaml").write_text(yaml.safe_dump(spec))
    Path("files.yaml").write_text(yaml.safe_dump(entries))


def prepare(*words):
    return main(["prepare", "suite.yaml", *words])


@pytest.fixture
def suite(web, in_tmp):
    """A suite of three files: an archive of images, one of a model, and a file; what they hold."""
    images = packed(image_folder(in_tmp / "of" / "images"), "images")
    model = packed(PACKAGE / "assets" / "digits_base", "base")
    weights = b"weights"
    web.answers.update(
        {"/i.zip": sends(images), "/m.zip": sends(model), "/network.pth": sends(weights)}
    )
    shutil.rmtree(in_tmp / "of")
    entries = {
        "images": {"what": "Images", "place": "data/images", "url": f"{web.address}/i.zip", "unpack": True,
                   "bytes": len(images), "md5": hashlib.md5(images).hexdigest(), "licence": "CC BY 4.0"},
        "base": {"what": "A base", "place": "models/base", "url": f"{web.address}/m.zip?dl=1", "name": "base.zip",
                 "unpack": True, "about_bytes": len(model), "holds": ["unet/config.json"], "weights": "ema",
                 "licence": "MIT", "accept": "the terms, at its page"},
        "network": {"what": "A network", "place": "models/network.pth", "url": f"{web.address}/network.pth",
                    "sha256": hashlib.sha256(weights).hexdigest()[:8], "licence": "Apache-2.0"},
    }  # fmt: skip
    write(entries)
    return entries, {"i.zip": images, "base.zip": model, "network.pth": weights}


def there():
    return sorted(p.as_posix() for root in ("data", "models") for p in Path(root).glob("*"))


ALL = ["data/images", "models/base", "models/network.pth"]


def test_without_fetch_nothing_is_asked_for_and_all_is_said(suite, web, capsys):
    assert prepare() == 0
    text = capsys.readouterr().out
    assert (web.asked, there()) == ([], [])
    assert "0 of 3 files and folders are there" in text
    for part in ("evaluate of before", "CC BY 4.0", "the terms, at its page", "free", "unpacked",
                 "next: deme prepare suite.yaml fetch=true"):  # fmt: skip
        assert part in text


def test_fetch_brings_all_and_asks_the_model_for_its_passport(suite, web, capsys):
    assert prepare("fetch=true", "paths.data=elsewhere") == 0
    text = capsys.readouterr().out
    assert "next: deme reproduce suite.yaml" in text
    assert "passport: models/base: " in text
    assert "weights: averaged (ema)" in text
    assert sorted(p.name for p in Path("elsewhere").iterdir()) == ["images"]
    assert len(list(Path("elsewhere/images").glob("*.png"))) == 20
    assert there() == ["models/base", "models/network.pth"]  # nothing is left of the archives
    asked = len(web.asked)
    assert prepare("fetch=true", "paths.data=elsewhere") == 0
    assert len(web.asked) == asked


def test_a_failure_does_not_stop_the_others_and_decides_the_exit_code(suite, web, capsys):
    _, contents = suite
    answer = web.answers.pop("/network.pth")
    web.answers["/i.zip"] = sends(contents["i.zip"][:-1] + b"x")
    assert prepare("fetch=true") in (3, 4)
    text = capsys.readouterr().err
    assert "2 of 3 files and folders failed" in text
    assert "404" in text
    assert "not the expected file" in text
    assert there() == ["models/base"]
    web.answers["/i.zip"] = sends(contents["i.zip"])
    assert prepare("fetch=true") == 3
    web.answers["/network.pth"] = answer
    assert prepare("fetch=true") == 0
    assert there() == ALL


def test_raw_weights_are_refused_where_averaged_ones_are_meant(suite, web, in_tmp, capsys):
    shutil.copytree(PACKAGE / "assets" / "digits_base", in_tmp / "raw")
    files.write_json(in_tmp / "raw" / "deme.json", {"ema": False})
    web.answers["/m.zip"] = sends(packed(in_tmp / "raw", "base"))
    assert prepare("fetch=true") == 4
    assert "models/base has raw weights" in capsys.readouterr().err


def test_an_archive_without_what_it_should_hold_is_refused(suite, web, in_tmp, capsys):
    shutil.copytree(PACKAGE / "assets" / "digits_base", in_tmp / "bad")
    shutil.rmtree(in_tmp / "bad" / "unet")
    web.answers["/m.zip"] = sends(packed(in_tmp / "bad", "base"))
    assert prepare("fetch=true") == 4
    assert "does not contain unet/config.json" in capsys.readouterr().err
    assert not Path("models/base").exists()


def test_what_was_carried_is_checked_linked_and_unpacked(suite, web, in_tmp, capsys):
    _, contents = suite
    (in_tmp / "usb" / "deep").mkdir(parents=True)
    for name, data in contents.items():
        (in_tmp / "usb" / "deep" / name).write_bytes(data)
    assert prepare("from=usb") == 0
    assert (web.asked, there()) == ([], ALL)
    carried = in_tmp / "usb" / "deep" / "network.pth"
    assert carried.samefile("models/network.pth")  # one file, two names
    assert sorted(p.name for p in (in_tmp / "usb" / "deep").iterdir()) == sorted(contents)
    Path("models/network.pth").unlink()
    carried.write_bytes(b"another")
    assert prepare("from=usb") == 4
    assert not Path("models/network.pth").exists()
    carried.unlink()
    assert prepare("from=usb") == 3
    assert "type: deme prepare suite.yaml fetch=true" in capsys.readouterr().err
    assert prepare("from=usb", "fetch=true") == 0


def test_finished_folders_are_taken_over(suite, web, in_tmp):
    _, contents = suite
    shutil.copytree(PACKAGE / "assets" / "digits_base", in_tmp / "usb" / "base")
    image_folder(in_tmp / "usb" / "images")
    (in_tmp / "usb" / "network.pth").write_bytes(contents["network.pth"])
    assert prepare("from=usb") == 0
    assert (web.asked, there()) == ([], ALL)
    shutil.rmtree("models/base")
    (in_tmp / "usb" / "base" / "unet" / "config.json").unlink()
    assert prepare("from=usb") == 4


def test_a_file_of_another_size_is_named_and_not_touched(suite, capsys):
    Path("models").mkdir()
    Path("models/network.pth").write_bytes(b"half")
    entries = {**suite[0], "network": {**suite[0]["network"], "bytes": 7}}
    write(entries)
    assert prepare() == 0
    assert "4 bytes instead of 7" in capsys.readouterr().out
    assert prepare("fetch=true") == 4
    assert Path("models/network.pth").read_bytes() == b"half"


def test_the_list_is_a_script_of_wget_and_hf(suite, web, capsys):
    hub = {"what": "x", "place": "models/network.pth", "hub": "owner/name", "revision": "abc",
           "patterns": ["network.pth"], "licence": "MIT"}  # fmt: skip
    write({**suite[0], "network": hub})
    assert prepare("list=true") == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [line for line in lines if not line.startswith("#")]
    assert sorted(commands) == [
        "hf download owner/name --revision abc network.pth --local-dir .",
        f"wget -c -O base.zip '{web.address}/m.zip?dl=1'",
        f"wget -c -O i.zip {web.address}/i.zip",
    ]
    assert (
        subprocess.run(["sh", "-n"], input="\n".join(lines), text=True, check=False).returncode == 0
    )
    assert web.asked == []
    assert prepare("list=true", "fetch=true") == 2


def test_a_file_that_nothing_is_said_of_and_one_that_a_person_must_bring(suite, in_tmp, capsys):
    entries = dict(suite[0])
    del entries["network"]
    entries["images"] = {"what": "Images", "place": "data/images", "by_hand": "log in at the page",
                         "name": "i.zip", "unpack": True, "licence": "for research"}  # fmt: skip
    write(entries)
    assert prepare() == 0
    assert "log in at the page" in capsys.readouterr().out
    assert prepare("fetch=true") == 3
    text = capsys.readouterr().err
    assert "put it at models/network.pth" in text
    assert "log in at the page\nthen type: deme prepare suite.yaml from=" in text
    (in_tmp / "usb").mkdir()
    (in_tmp / "usb" / "i.zip").write_bytes(suite[1]["i.zip"])
    assert prepare("from=usb") == 3
    assert there() == ["data/images", "models/base"]


def test_a_checkpoint_of_the_original_layout_is_converted(suite, web, capsys):
    buffer = io.BytesIO()
    torch.save(network(0, **CIFAR).state_dict(), buffer)
    web.answers["/x.ckpt"] = sends(buffer.getvalue())
    base = {"what": "A base", "place": "models/base", "url": f"{web.address}/x.ckpt", "licence": "MIT",
            "convert": {"ema": True, "size": 32}, "weights": "ema", "holds": ["unet/config.json"]}  # fmt: skip
    row = [
        word.replace("data=image_folder", "data=none") for word in ROW if "data.path" not in word
    ]
    write({"base": base, "network": suite[0]["network"]}, row)
    assert prepare("fetch=true") == 0
    text = capsys.readouterr().out
    assert "stated in its deme.json" not in text or "ema" in text
    assert Path("models/base", UNET).is_file()
    assert json.loads(Path("models/base/deme.json").read_text())["ema"] is True
    assert there() == ["models/base", "models/network.pth"]


def test_what_is_made_of_other_files_is_made_after_them(suite, monkeypatch, in_tmp, capsys):
    made = []

    def stats(config):
        made.append((config["data"]["path"], config["metrics"]["path"], there()))
        Path(config["out"]).write_bytes(b"statistics")

    monkeypatch.setattr(prepare_install, "stage_function", lambda stage: {"stats": stats}[stage])
    statistics = {"what": "x", "place": "data/s.npz", "make": "stats", "needs": ["images", "network"],
                  "overrides": ["data=image_folder", "data.path=${paths.data}/images", "metrics=fid_pytorch",
                                "metrics.path=${paths.models}/network.pth"]}  # fmt: skip
    tensors = {
        "what": "x",
        "place": "models/t.safetensors",
        "make": "safetensors",
        "needs": ["network"],
    }
    classes = {"what": "x", "place": "data/classes.txt", "make": "imagenet_classes"}
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(3.0)}, buffer)
    network = {key: value for key, value in suite[0]["network"].items() if key != "sha256"}
    write(
        {"images": suite[0]["images"], "network": network, "s": statistics, "t": tensors, "c": classes},
        ["model=diffusers", "model.path=asset:digits_base", "data=none", "prompts=imagenet", "metrics=fid_pytorch",
         "prompts.path=${paths.data}/classes.txt", "metrics.path=${paths.models}/t.safetensors",
         "+metrics.statistics.pytorch.path=${paths.data}/s.npz"],
    )  # fmt: skip
    (in_tmp / "usb").mkdir()
    (in_tmp / "usb" / "network.pth").write_bytes(buffer.getvalue())
    assert prepare("from=usb") == 3  # the images are not among what was carried
    assert made == []
    assert "data/s.npz is made of data/images, which is missing" in capsys.readouterr().err
    (in_tmp / "usb" / "i.zip").write_bytes(suite[1]["i.zip"])
    assert prepare("from=usb") == 0
    assert made == [("data/images", "models/network.pth", made[0][2])]
    assert {"data/images", "models/network.pth"} <= {*made[0][2]}
    assert torch.equal(load_file("models/t.safetensors")["a"], torch.arange(3.0))
    names = Path("data/classes.txt").read_text().splitlines()
    assert len(names) == len({*names}) == 1000
    shutil.rmtree("data/images")
    assert prepare() == 0  # what is made already needs them no more
    assert "next: deme reproduce" in capsys.readouterr().out


GOOD = {"what": "x", "place": "data/x", "url": "https://a.org/x.zip", "licence": "MIT"}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"place": "elsewhere/x"}, "place must be data/<place> or models/<place>"),
        ({"place": "data/../x"}, "place must be data/<place> or models/<place>"),
        ({"url": "ftp://a.org/x"}, "url must be an address"),
        ({"url": "https://a.org/"}, "name must be given"),
        ({"md5": "abc"}, "md5 must be 32 digits"),
        ({"sha256": "g" * 64}, "sha256 must be 8 to 64 digits"),
        ({"bytes": 0}, "bytes must be a whole number, at least 1"),
        ({"bytes": "1 MB"}, "bytes must be a whole number"),
        (
            {"hub": "owner/name"},
            "exactly one of url, hub, by_hand, make must be given; got url, hub",
        ),
        ({"url": None}, "exactly one of"),
        ({"revision": "abc"}, "revision has no meaning with url"),
        ({"unpack": True, "convert": {"ema": True}}, "unpack and convert exclude each other"),
        ({"convert": {"emma": True}}, "unknown key convert.emma; did you mean 'ema'?"),
        ({"licence": None}, "licence must be given"),
        ({"md5sum": "x"}, "unknown key md5sum; did you mean 'md5'?"),
        ({"holds": ["../x"]}, "holds.0 must be a path inside of the folder"),
        ({"weights": "average"}, "weights must be one of "),
    ],
)
def test_a_wrong_entry_is_named_with_its_file_and_key(change, part, in_tmp, capsys):
    entry = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    write({"mine": entry})
    assert prepare() == 2
    assert f"files.yaml: mine: {part}" in capsys.readouterr().err
    with pytest.raises(BadConfig):
        build(SourceSettings, entry)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("- a\n", "must hold entries"),
        ("a: 1\n", "must hold entries"),
        ("a: {what: x}\na: {what: y}\n", "line 2: key 'a' is given twice"),
        ("a: [\n", "files.yaml"),
        ("a: {what: x, place: data/x, make: safetensors, needs: [b]}\n", "a needs b"),
    ],
)
def test_a_wrong_file_of_entries_is_one_message(text, part, in_tmp, capsys):
    write({})
    Path("files.yaml").write_text(text)
    assert prepare() == 2
    assert part in capsys.readouterr().err


def test_places_are_found_where_one_folder_lies_in_the_other(in_tmp):
    words = ["model=diffusers", "model.path=${paths.models}/m", "data=image_folder",
             "data.path=${paths.data}/d", "paths.data=all", "paths.models=all/of/them"]  # fmt: skip
    found = {
        needed.path.name: needed.places for needed in needed_files(compose_stage("train", words))
    }
    assert found == {"m": ("models/m", "data/of/them/m"), "d": ("data/d",)}
    same = compose_stage("train", [*words[:4], "paths.data=all", "paths.models=all"])
    assert {p for needed in needed_files(same) for p in needed.places} >= {"data/d", "models/m"}
    here = compose_stage("train", [*words[:4], "paths.data=.", "paths.models=/elsewhere"])
    found = {needed.places for needed in needed_files(here)}
    assert found == {("models/m",), ("data/d",)}  # other texts are no places


# what deme plan sees


@pytest.mark.parametrize("data", ["cifar10", "fashion_mnist"])
def test_official_files_that_are_missing_are_seen_before_anything_runs(
    data, in_tmp, monkeypatch, capsys
):
    monkeypatch.setattr(official_files, "FASHION_FOLDERS", official_files.FASHION_FOLDERS[:-1])
    write({}, ["model=diffusers", "model.path=asset:digits_base", f"data={data}", "metrics=loss"])
    (node,) = Suite.read(Path("suite.yaml")).nodes
    assert node.state == "missing_file"
    assert main(["plan", "suite.yaml"]) == 0
    text = capsys.readouterr().out
    assert "1 without a file that they need" in text
    assert "type: deme prepare suite.yaml" in text
    assert main(["reproduce", "suite.yaml"]) == 3
    assert not Path("runs").exists()
    Path("data").mkdir()
    if data == "cifar10":
        cifar10.unpack(BINARY, Path("data"), without=["test_batch.bin"])
        assert node.state == "missing_file"  # the test images are held out
        (Path("data") / BINARY.folder / "test_batch.bin").touch()
    else:
        fashion.write(Path("data"), packed=True)
    assert node.state == "ready"
    shutil.rmtree("data")
    files.write_json(node.run.path / "status.json", {"state": "done"})
    assert node.state == "done"  # what is measured needs them no more


def test_a_data_set_that_may_be_downloaded_is_not_missing(in_tmp):
    write({}, ["model=diffusers", "model.path=asset:digits_base", "data=cifar10", "data.download=true",
               "metrics=loss"])  # fmt: skip
    (node,) = Suite.read(Path("suite.yaml")).nodes
    assert node.state == "ready"


# the Hub, and a whole table from two commands


def hub_answers(repository, contents, commit="c0ffee"):
    """What the Hub's server answers for a public repository of small files."""
    info = {"id": repository, "sha": commit, "siblings": [{"rfilename": name} for name in contents]}
    tree = [{"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in contents.items()]  # fmt: skip

    def with_headers(name, data):
        def answer(request):
            start = int((request.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
            request.send_response(206 if request.headers.get("Range") else 200)
            request.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            request.send_header("X-Repo-Commit", commit)
            request.send_header("Content-Length", str(len(data) - start))
            request.end_headers()
            if request.command == "GET":
                request.wfile.write(data[start:])

        return answer

    api = f"/api/models/{repository}"
    as_json = lambda value: sends(json.dumps(value).encode(), "application/json")  # noqa: E731
    found = {f"{api}/revision/{commit}": as_json(info)}
    for query in ("", "?recursive=true&expand=false", "?recursive=True&expand=False"):
        found[f"{api}/tree/{commit}{query}"] = as_json(tree)
    for name, data in contents.items():
        found[f"/{repository}/resolve/{commit}/{name}"] = with_headers(name, data)
    return found


@pytest.mark.slow
def test_a_repository_of_the_hub_is_brought_whole(web, in_tmp):
    base = PACKAGE / "assets" / "digits_base"
    contents = {
        p.relative_to(base).as_posix(): p.read_bytes() for p in base.rglob("*") if p.is_file()
    }
    web.answers.update(hub_answers("owner/base", {**contents, "other.bin": b"not wanted"}))
    entry = {"what": "x", "place": "models/base", "hub": "owner/base", "revision": "c0ffee",
             "patterns": ["*.json", "*.safetensors"], "licence": "MIT", "weights": "ema",
             "holds": ["unet/config.json"]}  # fmt: skip
    write(
        {"base": entry},
        ["model=diffusers", "model.path=${paths.models}/base", "data=none", "metrics=loss"],
    )
    environment = {**os.environ, "HF_ENDPOINT": web.address, "HF_HUB_OFFLINE": "0", "NO_PROXY": "*",
                   "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
                   "HF_HOME": str(in_tmp / "hf")}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "deme", "prepare", "suite.yaml", "fetch=true"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr + str(web.asked)
    found = {p.relative_to("models/base").as_posix(): p.read_bytes()
             for p in Path("models/base").rglob("*") if p.is_file()}  # fmt: skip
    assert found == contents
    assert there() == ["models/base"]


def smoke(web, folder):
    """A copy of experiments/cifar10/smoke.yaml whose archive is made up and lies on this machine."""
    place = with_a_smaller_network("cifar10", folder)
    layout, _, archive = cifar10.MADE[BINARY.folder]
    entries = yaml.safe_load((EXPERIMENTS / "cifar10" / "files.yaml").read_text())
    entries["cifar10"] |= {"url": f"{web.address}/{BINARY.archive}", "bytes": len(archive),
                           "md5": layout.md5[BINARY.archive]}  # fmt: skip
    (folder / "files.yaml").write_text(yaml.safe_dump(entries))
    web.answers[f"/{BINARY.archive}"] = sends(archive, cuts=[1000])
    return place


def test_the_archive_of_the_smoke_suite_is_all_that_it_needs(web, in_tmp, monkeypatch, capsys):
    place = smoke(web, in_tmp)
    assert {node.state for node in Suite.read(place).nodes} == {"missing_file", "waiting"}
    assert main(["prepare", place.name, "fetch=true"]) == 0
    assert "next: deme reproduce cifar10.yaml" in capsys.readouterr().out
    assert there() == [f"data/{BINARY.archive}"]
    assert web.asked[0] == (f"/{BINARY.archive}", None)
    assert {node.state for node in Suite.read(place).nodes} == {"ready", "waiting"}


@pytest.mark.slow
def test_two_commands_make_the_smoke_table(web, in_tmp):
    place = smoke(web, in_tmp)
    code, text = run(["prepare", place.name, "fetch=true"], in_tmp, PRETEND)
    assert code == 0, text
    code, text = run(["reproduce", place.name], in_tmp, PRETEND)
    assert code == 0, text
    assert (in_tmp / "runs/cifar10_smoke/results/cifar10_smoke.md").is_file()
