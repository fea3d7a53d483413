"""LoRA experts from the command line: trained, killed and resumed, routed, merged, searched, exported, and loaded by diffusers."""

import json
import subprocess
import sys

import pytest
import torch

from deme.models.loading import load_folder
from deme.runs import weights_folder
from deme.system.paths import locate
from deme.system.tensors import TensorFile
from tests.pipeline.program import TINY_TRAIN, done, run, start
from tests.pipeline.test_resume import SLOW_STEP

TEXT = ["model=captioned_digits_base", "data=captioned_digits"]
LORA = [
    "adapter=lora",
    "adapter.rank=4",
    "optimizer.lr=1e-2",
    "passport.num_images=16",
    *TINY_TRAIN,
]
EXPERTS = ["method=deme", "ranges.num_ranges=2"]
# diffusers alone: a stock pipeline with the LoRA that a folder holds
STOCK = """
import sys, torch
from diffusers import StableDiffusionPipeline
assert "deme" not in sys.modules
base, lora, given, out = sys.argv[1:]
pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
pipeline.load_lora_weights(lora)
x_t, t, text = torch.load(given)
with torch.no_grad():
    torch.save(pipeline.unet(x_t, t, text).sample, out)
"""


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """Two LoRA experts of the shipped text-to-image pipeline."""
    place = tmp_path_factory.mktemp("lora")
    words = ["train", *TEXT, *EXPERTS, *LORA]
    return place, [done([*words, f"expert={i}"], place) for i in (0, 1)]


def given(experts):
    return f"inputs.experts=[{','.join(map(str, experts))}]"


def about(run_dir):
    return json.loads((weights_folder(run_dir) / "deme.json").read_text())


def of_model(folder):
    model = load_folder(str(folder))
    x_t, t, text = inputs(model)
    with torch.no_grad():
        return model(x_t, t, {"encoder_hidden_states": text})


def inputs(model):
    g = torch.Generator().manual_seed(0)
    shape = (3, *model.noise_shape)
    return (
        torch.randn(shape, generator=g),
        torch.tensor([0, 500, 999]),
        torch.randn(3, model.encoders.max_tokens, model.encoders.width, generator=g),
    )


def test_a_run_writes_the_adapter_alone_and_names_its_base(experts):
    _, (first, second) = experts
    for run_dir in (first, second):
        place = weights_folder(run_dir)
        assert sorted(p.name for p in place.iterdir()) == [
            "adapter_config.json",
            "deme.json",
            "pytorch_lora_weights.safetensors",
        ]
        assert about(run_dir)["base_model"] == "asset:captioned_digits"
        size = sum(p.stat().st_size for p in (run_dir / "weights").rglob("*.safetensors"))
        assert (
            size
            < (locate("asset:captioned_digits") / "unet" / "diffusion_pytorch_model.safetensors")
            .stat()
            .st_size
        )
    files = [
        TensorFile(weights_folder(r) / "pytorch_lora_weights.safetensors") for r in (first, second)
    ]
    assert files[0].specs == files[1].specs
    ups = [name for name in files[0].specs if ".lora_B." in name]
    assert any(not torch.equal(files[0].read(name), files[1].read(name)) for name in ups)


@pytest.mark.parametrize("form", ["svd", "cat"])
def test_stock_diffusers_loads_what_was_merged_and_answers_alike(experts, form, tmp_path):
    place, runs = experts
    merged = done(
        ["merge", TEXT[0], given(runs), f"lora.form={form}", "merge.weights=[0.7,0.6]"], place
    )
    folder = weights_folder(merged)
    model = load_folder(str(folder))
    x_t, t, text = inputs(model)
    torch.save((x_t, t, text), tmp_path / "given.pt")
    words = [
        sys.executable,
        "-c",
        STOCK,
        str(locate("asset:captioned_digits")),
        str(folder),
        str(tmp_path / "given.pt"),
        str(tmp_path / "out.pt"),
    ]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    stock = torch.load(tmp_path / "out.pt")
    with torch.no_grad():
        ours = model(x_t, t, {"encoder_hidden_states": text})
        base = load_folder("asset:captioned_digits")(x_t, t, {"encoder_hidden_states": text})
    torch.testing.assert_close(ours, stock, rtol=1e-5, atol=1e-5)
    assert float((ours - base).abs().max()) > 1e-3
    found = about(merged)
    assert (found["rank"], found["merge"]) == (4 if form == "svd" else 8, "weighted_sum")
    assert 0 <= found["dropped"] < 0.5
    fused = done(
        ["merge", TEXT[0], given(runs), "lora.form=fuse", "merge.weights=[0.7,0.6]"], place
    )
    with torch.no_grad():
        whole = load_folder(str(weights_folder(fused)))(x_t, t, {"encoder_hidden_states": text})
    if form == "cat":
        torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-4)


def test_experts_are_routed_searched_distilled_and_exported(experts, tmp_path):
    place, runs = experts
    evaluate = ["evaluate", *TEXT, "metrics=captioned_digits", "prompts=captions", "sampler=ddim_latent", "num_images=10",
                "sampler.num_inference_steps=2", "batch_size=10", "shard_size=10", "metrics.replicates=3", "metrics.loss.draws=1"]  # fmt: skip
    routed = done([*evaluate, "source=experts", given(runs)], place)
    assert "loss/1" in json.loads((routed / "metrics.json").read_text())["metrics"]
    words = [
        "search",
        *TEXT,
        given(runs),
        "search=grid",
        "search.step=0.5",
        "objective=loss",
        "prompts=none",
    ]
    code, text = run(words, place)
    assert code == 0, text
    code, text = run(["export", f"run={runs[0]}", f"out={tmp_path}/out"], place)
    assert code == 0, text
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file()
    torch.testing.assert_close(of_model(tmp_path / "out"), of_model(weights_folder(runs[0])))


def test_the_names_of_kohya_are_read_again_by_diffusers_converter(experts, tmp_path):
    place, runs = experts
    out = tmp_path / "kohya"
    code, text = run(["export", f"run={runs[0]}", f"out={out}", "format=kohya"], place)
    assert code == 0, text
    names = list(TensorFile(out / "pytorch_lora_weights.safetensors").specs)
    ends = {name.partition(".")[2] for name in names}
    assert ends == {"lora_down.weight", "lora_up.weight", "alpha"}
    assert all(name.startswith("lora_unet_") for name in names)
    assert not (out / "adapter_config.json").exists()
    words = ["merge", TEXT[0], f"inputs.experts=[{out}]", "merge.weights=[1]", "lora.form=fuse"]
    merged = done(words, place)
    ours, theirs = of_model(weights_folder(merged)), of_model(weights_folder(runs[0]))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    words = ["export", f"run={merged}", f"out={tmp_path}/x", "format=kohya"]
    code, text = run(words, place)
    assert (code, "type: format=diffusers" in text) == (2, True), text


def test_an_average_of_loras_is_a_whole_model(experts):
    place, runs = experts
    averaged = done(["average", "average=mean", f"inputs.run=[{','.join(map(str, runs))}]"], place)
    fused = done(
        ["merge", TEXT[0], given(runs), "lora.form=fuse", "merge.weights=[0.5,0.5]"], place
    )
    torch.testing.assert_close(
        of_model(weights_folder(averaged)), of_model(weights_folder(fused)), rtol=1e-4, atol=1e-5
    )


def test_what_loras_cannot_do_is_one_message(experts):
    place, runs = experts
    lora = weights_folder(runs[0])
    words = ["train", "model=diffusers", f"model.path={lora}", TEXT[1], *TINY_TRAIN]
    code, text = run(words, place)
    assert (code, "lora.form=fuse" in text) == (2, True), text
    other = done(["train", *TEXT, *EXPERTS, *LORA, "adapter.rank=2", "expert=1"], place)
    words = ["evaluate", *TEXT, "metrics=loss", "source=experts", given([runs[0], other])]
    code, text = run(words, place)
    assert (code, "must have the same base, rank and layers" in text) == (2, True), text


def test_a_killed_training_of_an_adapter_goes_on_bit_for_bit(tmp_path):
    words = [
        "train",
        "model=digits_base",
        "data=digits",
        *EXPERTS,
        *LORA,
        "expert=1",
        "projection=none",
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    undisturbed = done(words, whole)
    program = start(words, killed, SLOW_STEP)
    program.wait_for(
        lambda: any(p.read_text().count("\n") > 4 for p in killed.glob("runs/*/*/*/metrics.jsonl"))
    )
    program.kill()
    (checkpoint,) = killed.glob("runs/*/*/*/checkpoints/last.ckpt")
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert stored
    assert all(".lora_" in name for name in stored)
    again = done(words, killed)
    for kind in ("raw", "ema"):
        one, other = (
            TensorFile(r / "weights" / kind / "pytorch_lora_weights.safetensors").read_all()
            for r in (undisturbed, again)
        )
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["adapter.rank=0"], "adapter.rank must be"),
        (["adapter.rank=1000"], "is above"),
        (["adapter.targets=[nowhere]"], "no layer's name ends with 'nowhere'"),
        (["projection=foldable"], "already has channel projections"),
        (["compute.strategy=fsdp"], "adapter"),
        (["method=deme", "method.teacher=ema"], "cannot be combined with adapter=lora"),
    ],
)  # fmt: skip
def test_slips_with_adapters_are_one_message(words, message, tmp_path):
    code, text = run(
        ["train", "model=digits_base", "data=digits", "adapter=lora", *TINY_TRAIN, *words], tmp_path
    )
    assert code == 2
    assert message in text
    assert not list(tmp_path.glob("runs/*/*/*/weights"))
