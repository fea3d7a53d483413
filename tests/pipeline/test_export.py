"""`deme export`: a folder that stock diffusers loads without deme, its card, and its way to the Hub (a fake one)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from deme.data.pixels import to_uint8
from deme.diffusion import image_generator
from deme.models.layout import PROJECTIONS, UNET
from deme.models.loading import load_pretrained
from deme.runs import weights_folder
from deme.sampling.ddim import DDIM
from deme.sampling.generate import generate
from deme.system import tensors
from tests.pipeline.program import TINY_EVALUATE, TINY_EXPERTS, TINY_TRAIN, done, run
from tests.pipeline.test_errors import fails

FOLDABLE = [*TINY_EXPERTS, "projection=foldable", "optimizer.lr=2e-3", "ema=none"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with two experts that have foldable projections, their merge, and an evaluation of it."""
    folder = tmp_path_factory.mktemp("export")
    experts = [done(["train", f"expert={i}", *FOLDABLE], folder) for i in (0, 1)]
    given = f"inputs.experts=[{','.join(str(e.relative_to(folder)) for e in experts)}]"
    merged = done(["merge", given, "merge.weights=[0.7,0.4]"], folder)
    evaluated = done(
        ["evaluate", f"inputs.weights={merged.relative_to(folder)}", *TINY_EVALUATE], folder
    )
    return {"folder": folder, "experts": experts, "merged": merged, "evaluated": evaluated}


def export(place, out, *words):
    code, text = run(["export", f"run={place}", f"out={out}", *words], Path(out).parent)
    assert code == 0, text
    return text


WITHOUT_DEME = """
import sys
class NoDeme:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "deme":
            raise ImportError("deme is blocked")
sys.meta_path.insert(0, NoDeme())
try:
    import deme
except ImportError as error:
    assert str(error) == "deme is blocked"
else:
    raise SystemExit("deme can be imported")

import json, numpy, torch
from diffusers import DDIMPipeline, DDPMPipeline
folder, seeds, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
pipeline = DDIMPipeline.from_pretrained(folder)
pipeline.set_progress_bar_config(disable=True)
draws = [torch.Generator().manual_seed(seed) for seed in seeds]
images = pipeline(batch_size=len(seeds), generator=draws, num_inference_steps=10, output_type="np").images
numpy.save(out, images)
assert type(DDPMPipeline.from_pretrained(folder).scheduler).__name__ == "DDPMScheduler"
assert "deme" not in sys.modules
"""


def unfolded(experts, merged):
    """The merge before its projections are multiplied into their layers: base + sum w (expert - base), each in its own space."""
    experts = [load_pretrained(str(weights_folder(place))) for place in experts]
    weights = json.loads((merged / "weights/merged/deme.json").read_text())["weights"]
    model = load_pretrained("asset:digits_base")
    model.add_projections("foldable")
    base, states = model.state_dict(), [expert.state_dict() for expert in experts]
    model.load_state_dict(
        {
            n: base[n] + sum(w * (s[n] - base[n]) for w, s in zip(weights, states, strict=True))
            for n in base
        }
    )
    return model


def test_stock_diffusers_without_deme_draws_the_same_images(made, tmp_path):
    text = export(made["merged"], tmp_path / "model")
    assert "(projections folded)" in text
    assert not (tmp_path / "model" / PROJECTIONS).exists()
    seeds = [image_generator(5, i).initial_seed() for i in range(6)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "HF_HUB_OFFLINE": "1"
    }
    subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            WITHOUT_DEME,
            "model",
            json.dumps(seeds),
            "theirs.npy",
        ],
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    theirs = torch.from_numpy(np.load(tmp_path / "theirs.npy")).permute(0, 3, 1, 2)

    model = unfolded(made["experts"], made["merged"])
    assert model.projections.placement == "foldable"
    eye = torch.eye(model.projections["mid_resnet"].weight.shape[0])[:, :, None, None]
    assert (model.projections["mid_resnet"].weight - eye).abs().max() > 1e-3
    scheduler = DDIM(10).scheduler(model.scheduler_config)
    images = torch.stack(
        [torch.randn(model.image_shape, generator=image_generator(5, i)) for i in range(6)]
    )
    with torch.no_grad():
        for t in scheduler.timesteps.tolist():
            images = scheduler.step(model(images, torch.full((6,), t)), t, images).prev_sample
    torch.testing.assert_close(theirs, (images / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)
    ours = next(
        generate(model, model.scheduler_config, model.image_shape, DDIM(10), 5, range(6), 6)
    )
    assert (ours.int() - to_uint8(theirs * 2 - 1).int()).abs().max() <= 1


def test_the_card_tells_the_history_and_the_numbers(made, tmp_path):
    export(made["merged"], tmp_path / "model", "license=cc-by-4.0", "push=someone/digits")
    text = (tmp_path / "model" / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "diffusers"
    assert front["license"] == "cc-by-4.0"
    assert "decouple-then-merge" in front["tags"]
    about = json.loads((made["merged"] / "weights/merged/deme.json").read_text())
    record = json.loads((made["merged"] / "run.json").read_text())
    status = json.loads((made["merged"] / "status.json").read_text())
    for part in (
        "# digits\n",
        'DDIMPipeline.from_pretrained("someone/digits")',
        "num_inference_steps=4).images",
        f"Base: `asset:digits_base`, content sha256 `{about['base']}`",
        "Ranges of timesteps: [0, 500), [500, 1000)",
        "Merge weights, low noise first: 0.7, 0.4",
        "Training data: digits, 1,438 training images",
        "Method: `method=deme method.consistency_weight=1.0 method.teacher=base`",
        "Loss weighting: `weighting=constant`",
        "Merge: `merge=weighted_sum`",
        "Optimizer steps: 12 of 16 images",
        "Optimizer: `optimizer=adamw optimizer.lr=0.002 ",
        "Learning rate: `learning_rate=constant",
        "Gradients: clipped to norm 1.0",
        "EMA: none",
        "Precision: 32-true on cpu",
        "multiplied into their layers",
        f"torch {record['versions']['torch']}",
        record["git"]["commit"] if record["git"] else "Software",
        f"Run: `{made['merged'].name}`, weights sha256 `{status['weights']['merged']}`",
        "200 images from seed 0, `sampler=ddim sampler.num_inference_steps=4",
        "CVPR 2025",
    ):
        assert part in text
    metrics = json.loads((made["evaluated"] / "metrics.json").read_text())["metrics"]
    for name in ("fd_digits", "loss"):
        metric = metrics[name]
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        assert [cell.strip() for cell in row.strip("|").split("|")] == [
            name,
            f"{metric['value']:.4g}",
            "[{:.4g}, {:.4g}]".format(*metric["interval"]),
            f"{metric['n']:,}",
            metric["better"],
            metric["reference"],
            metric["implementation"],
        ]
    assert str(made["folder"]) not in text
    assert "**Note.**" not in text
    assert "deme." not in text.replace("deme.json", "")  # no class of its own


def test_the_snippet_of_the_card_runs(made, tmp_path):
    export(made["merged"], tmp_path / "model", "dtype=bfloat16")
    text = (tmp_path / "model" / "README.md").read_text()
    snippet = text.split("```python\n")[1].split("```")[0]
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{snippet}assert len(images) == 4"],
        cwd=tmp_path,
        check=True,
    )
    assert "rounded to bfloat16" in text


def test_an_expert_says_for_which_timesteps_it_is(made, tmp_path):
    export(made["experts"][1], tmp_path / "expert")
    text = (tmp_path / "expert" / "README.md").read_text()
    assert (
        "> **Note.** This is an expert: it is trained for the timesteps t in [500, 1000) of 1000 only."
        in text
    )
    assert "No finished evaluation of these weights was found" in text


def test_experts_that_are_gone_are_named(made, tmp_path):
    copy = Path(shutil.copytree(made["merged"], tmp_path / "runs/scratch/merge/alone"))
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**record, "directory": str(tmp_path)}))
    export(copy, tmp_path / "model")
    text = (tmp_path / "model" / "README.md").read_text()
    names = ", ".join(expert.name for expert in made["experts"])
    assert f"Experts whose records were not found: {names}" in text
    assert "Base: `asset:digits_base`" in text


def test_a_model_folder_and_a_plain_finetuning_are_exported_as_such(tmp_path):
    export("asset:digits_base", tmp_path / "base")
    text = (tmp_path / "base" / "README.md").read_text()
    assert "no record of how it was trained was found" in text
    assert "Exported from: `asset:digits_base`" in text
    assert "decouple-then-merge" not in text
    tuned = done(["train", *TINY_TRAIN, "num_steps=1"], tmp_path)
    export(tuned, tmp_path / "tuned")
    text = (tmp_path / "tuned" / "README.md").read_text()
    assert "finetuned from `asset:digits_base`" in text
    assert "CVPR" not in text
    before, after = (
        tensors.TensorFile(f / UNET).read_all() for f in (tuned / "weights/ema", tmp_path / "tuned")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_are_rounded_after_folding(dtype, made, tmp_path):
    export(made["merged"], tmp_path / "full")
    export(made["merged"], tmp_path / "half", f"dtype={dtype}")
    full, half = (
        tensors.TensorFile(tmp_path / name / UNET).read_all() for name in ("full", "half")
    )
    assert all(torch.equal(half[name], full[name].to(getattr(torch, dtype))) for name in full)


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    return done(["train", *TINY_TRAIN, "projection=blocks"], tmp_path_factory.mktemp("papers"))


def test_the_papers_placement_is_refused_and_both_ways_out_are_named(papers, tmp_path):
    fails(
        ["export", f"run={papers}", "out=model"],
        tmp_path,
        2,
        "has channel projections in the paper's placement, which only deme's loader applies",
        "type: keep_projections=true for a folder that needs deme (its card says so),\nor train with projection=foldable",
    )
    assert not list(tmp_path.glob("*model*"))


def test_kept_projections_are_whole_and_the_card_warns(papers, tmp_path):
    export(papers, tmp_path / "model", "keep_projections=true")
    text = (tmp_path / "model" / "README.md").read_text()
    assert "Stock diffusers ignores them" in text
    assert 'model = load_pretrained("model")' in text
    again, model = (
        load_pretrained(str(tmp_path / "model")),
        load_pretrained(str(papers / "weights" / "ema")),
    )
    x_t, t = (
        torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.tensor([5, 900]),
    )
    with torch.no_grad():
        assert torch.equal(again(x_t, t), model(x_t, t))


def test_the_same_again_is_fine_and_nothing_else_is_overwritten(made, tmp_path):
    export(made["merged"], tmp_path / "model")
    before = {p: p.read_bytes() for p in (tmp_path / "model").rglob("*") if p.is_file()}
    export(made["merged"], tmp_path / "model")
    assert before == {p: p.read_bytes() for p in (tmp_path / "model").rglob("*") if p.is_file()}

    words = ["export", "run=asset:digits_base"]
    fails(
        [*words, "out=model"],
        tmp_path,
        2,
        "deme: model contains the export of another model",
        "overwrite=true",
    )
    (tmp_path / "model" / "README.md").write_text("my own words")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    same = ["export", f"run={made['merged']}", "out=model"]
    fails(same, tmp_path, 2, "deme: model was changed since it was exported: README.md, notes.txt")
    export("asset:digits_base", tmp_path / "model", "overwrite=true")
    assert not (tmp_path / "model" / "notes.txt").exists()

    (tmp_path / "data").mkdir()
    export("asset:digits_base", tmp_path / "data")  # an empty folder is no loss
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "photo.png").write_text("precious")
    fails(
        [*words, "out=data"],
        tmp_path,
        2,
        "deme: data exists and is not an export",
        "overwrite=true to replace it",
    )
    for out in (
        ".",
        "..",
        made["merged"] / "weights",
        made["merged"] / "weights/merged",
        made["merged"] / "weights/merged/x",
    ):
        place = made["merged"] if out not in (".", "..") else "asset:digits_base"
        fails(
            ["export", f"run={place}", f"out={out}", "overwrite=true"],
            tmp_path,
            2,
            "contains the model itself or the current folder",
        )
    (tmp_path / "clone" / ".git").mkdir(parents=True)
    fails(
        [*words, "out=clone", "overwrite=true"],
        tmp_path,
        2,
        "out=clone is a file, a link or a git repository",
    )
    (tmp_path / "link").symlink_to("data")
    fails(
        [*words, "out=link", "overwrite=true"],
        tmp_path,
        2,
        "out=link is a file, a link or a git repository",
    )
    assert (tmp_path / "data" / "photo.png").read_text() == "precious"
    assert load_pretrained(str(made["merged"] / "weights" / "merged"))


def test_other_slips_are_one_message_each(made, tmp_path):
    base = ["export", "run=asset:digits_base", "out=model"]
    fails(
        [*base, "dtype=float8"],
        tmp_path,
        2,
        "deme: dtype must be one of float32, float16, bfloat16",
    )
    fails([*base, "dry_run=1"], tmp_path, 2, "deme: dry_run must be true or false")
    for name in ("digits", "a/b/c", "../x", "5"):
        fails([*base, f"push={name}"], tmp_path, 2, "deme: push ")
    fails(["export", "out=model"], tmp_path, 2, "deme: run must be given\ntype: run=<value>")
    fails(
        ["export", f"run={made['evaluated']}", "out=model"],
        tmp_path,
        2,
        "has no weights\ngive the directory of a train, merge or average run",
    )
    fails(["export", "run=nowhere", "out=model"], tmp_path, 3, "deme: nowhere does not exist")
    (tmp_path / "file").write_text("")
    fails(
        ["export", "run=asset:digits_base", "out=file/model"],
        tmp_path,
        74,
        "deme: cannot write file/model",
    )
    large = Path(shutil.copytree(made["experts"][0] / "weights" / "raw", tmp_path / "large"))
    state = tensors.TensorFile(large / UNET).read_all()
    state["conv_in.bias"][0] = 1e6
    tensors.save(large / UNET, state)
    fails(
        ["export", "run=large", "out=model", "dtype=float16"],
        tmp_path,
        4,
        "deme: unet.conv_in.bias has values too large for float16\ntype: dtype=bfloat16",
    )
    assert not (tmp_path / "model").exists()


FAKE_HUB = """
import huggingface_hub, json
calls = []
def keep(kind):
    def call(*words, **more):
        calls.append([kind, [str(w) for w in words], {k: str(v) for k, v in more.items()}])
        open("calls.json", "w").write(json.dumps(calls))
    return call
huggingface_hub.create_repo, huggingface_hub.upload_folder = keep("create"), keep("upload")
"""
NO_TOKEN = """
import huggingface_hub
def refuse(*words, **more): raise huggingface_hub.errors.LocalTokenNotFoundError("Token is required, but no token found.\\nMore text.")
huggingface_hub.create_repo = refuse
"""


def test_a_push_says_what_it_would_do_unless_told_to_do_it(made, tmp_path):
    words = ["export", f"run={made['merged']}", "out=model", "push=someone/digits"]
    code, text = run([*words, "dtype=float16"], tmp_path, FAKE_HUB)
    assert code == 0, text
    assert "would upload 6 files, " in text
    assert "to someone/digits (made as a private repository if it does not exist)" in text
    for name in (
        "README.md",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        UNET,
    ):
        assert f"  {name}\n" in text
    assert (
        f"deme export run={made['merged']} out=model dtype=float16 push=someone/digits dry_run=false"
        in text
    )
    assert not (tmp_path / "calls.json").exists()

    code, text = run([*words, "dry_run=false", "private=false"], tmp_path, FAKE_HUB)
    assert code == 0, text
    assert "uploaded 6 files to https://huggingface.co/someone/digits" in text
    create, upload = json.loads((tmp_path / "calls.json").read_text())
    assert create == ["create", ["someone/digits"], {"private": "False", "exist_ok": "True"}]
    assert upload[2]["repo_id"] == "someone/digits"
    assert upload[2]["folder_path"] == "model"


def test_an_upload_that_fails_is_one_message_and_leaves_the_export(made, tmp_path):
    words = ["export", f"run={made['merged']}", "out=model", "push=someone/digits", "dry_run=false"]
    fails(
        words,
        tmp_path,
        4,
        "model is not uploaded to someone/digits: Token is required, but no token found.\nthe folder is complete; log in with `hf auth login`",
        patch=NO_TOKEN,
    )
    assert load_pretrained(str(tmp_path / "model")).projections is None
    fails(
        words, tmp_path, 4, "model is not uploaded to someone/digits: "
    )  # offline: HF_HUB_OFFLINE=1 in the tests
