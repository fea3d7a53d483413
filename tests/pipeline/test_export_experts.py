"""Experts exported without merging them: stock diffusers routes them as `deme` does."""

import json
import subprocess
import sys

import diffusers
import pytest
import torch

from deme.builders import generate_images
from deme.builders.compute import Compute
from deme.builders.models import load_experts
from deme.data.prompts import Prompt, Prompts
from deme.diffusion import FlowSchedule, generator, image_generator
from deme.models.adapter import LoRA
from deme.models.loading import load_folder
from deme.runs import base_hash
from deme.sampling.ddim import DDIM
from deme.sampling.flow import FlowEuler
from deme.system import read_json
from deme.system.paths import locate
from tests.models import tiny
from tests.pipeline.program import run
from tests.pipelines import saved

PROMPTS = ["a photo of the digit one", "seven"]
# the pipeline alone, from given noise; with two steps, the first of DDIM is not in the noisiest range
STOCK = f"""
import json, sys, torch
from diffusers import DiffusionPipeline
base, folder, noise, size, out = sys.argv[1:]
sys.path.insert(0, folder)
from route_loras import load_loras
assert not any(name == "deme" or name.startswith("deme.") for name in sys.modules)
pipeline = DiffusionPipeline.from_pretrained(base, safety_checker=None)
pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, clip_sample=False)
switch = load_loras(pipeline, folder)
found = []
for steps in (6, 2, 6):
    found.append(pipeline({PROMPTS!r}, latents=torch.load(noise), num_inference_steps=steps, guidance_scale=1.0,
                          height=int(size), width=int(size), output_type="latent", callback_on_step_end=switch).images)
torch.save(found, out)
"""


@pytest.fixture(scope="module", params=["digits", "sd3"])
def experts(request, tmp_path_factory):
    """A pipeline, three LoRAs of different ranges, and where they are."""
    place = tmp_path_factory.mktemp("routed")
    base = locate("asset:captioned_digits") if request.param == "digits" else saved("sd3", place / "base")  # fmt: skip
    found = []
    for i, (low, high) in enumerate([(0, 300), (300, 650), (650, 1000)]):
        model = load_folder(str(base))
        model.add_adapter(LoRA(2))
        for name, value in model.trained_parameters().items():
            if ".lora_B." in name:
                value.data = 0.2 * torch.randn(value.shape, generator=generator(i, name))
        about = {"range": [low, high], "num_timesteps": 1000, "base_model": str(base),
                 "base": base_hash({"path": str(base)}, base)}  # fmt: skip
        model.save(place / f"expert{i}", model.state_dict(), about)
        found.append(place / f"expert{i}")
    return base, found, place


def listed(folders):
    return f"run=[{','.join(map(str, folders))}]"


def test_stock_diffusers_uses_each_lora_at_its_timesteps(experts):
    base, folders, place = experts
    out = place / "out"
    code, text = run(["export", listed(folders[::-1]), f"out={out}"], place)
    assert code == 0, text
    told = read_json(out / "ranges.json", dict, "")
    model = load_folder(str(base))
    noise = torch.stack(
        [torch.randn(model.noise_shape, generator=image_generator(3, i)) for i in range(2)]
    )
    torch.save(noise, place / "noise.pt")
    words = [base, out, place / "noise.pt", model.image_shape[1], place / "images.pt"]
    result = subprocess.run(
        [sys.executable, "-c", STOCK, *map(str, words)], cwd=place, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    is_flow = isinstance(model.schedule, FlowSchedule)
    begins = [each["from_timestep"] for each in told["experts"]]
    if is_flow:  # the scheduler's timesteps are 1,000 times the shifted noise level
        expected = [1000 * 3 * s / (1 + 2 * s) for s in (0.301, 0.651)]
        assert begins == pytest.approx([0, *expected], abs=1e-3)
    else:
        assert begins == [0, 300, 650]
    offset = {"steps_offset": 1, "set_alpha_to_one": False}
    loaded = load_experts(folders, Compute("cpu", "32-true", "cpu"))
    seen = []
    loaded.model.decode = lambda x0: seen.append(x0) or torch.zeros(len(x0), 3, 1, 1)
    prompts = Prompts("two", tuple(map(Prompt, PROMPTS)))
    for steps in (6, 2, 6):
        sampler = FlowEuler(steps) if is_flow else DDIM(steps, clip_sample=False, **offset)
        list(generate_images(loaded.network, loaded.model, sampler, 3, [0, 1], 2, "cpu", prompts))
    for ours, theirs in zip(seen, torch.load(place / "images.pt"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    plain = []
    model.decode = lambda x0: plain.append(x0) or torch.zeros(len(x0), 3, 1, 1)
    list(generate_images(model, model, sampler, 3, [0, 1], 2, "cpu", prompts))
    assert float((plain[0] - seen[0]).abs().max()) > 1e-2
    assert (out / "README.md").read_text().count("expert_") >= 3


def test_slips_are_one_message(experts, tmp_path):
    base, folders, place = experts
    for words, message in [
        ([listed([*folders[:2], base])], "type: run='[<LoRA>,<LoRA>,...]'"),
        ([listed(folders[:2])], "do not fit together"),
        ([listed(folders), "boundary_ratio=0.5"], "type: boundary_ratio=null"),
        ([f"run={folders[0]}", "boundary_ratio=0.5"], "type: boundary_ratio=null, or run="),
        ([listed(folders), "boundary_ratio=1.5"], "boundary_ratio"),
        ([listed([base, base]), "boundary_ratio=0.5"], "adapter=lora"),
    ]:
        code, text = run(["export", *words, f"out={tmp_path}/out"], place)
        assert (code, message in text, text.count("\n") < 5) == (2, True, True), text
        assert not (tmp_path / "out").exists()


def test_loras_without_a_loader_are_refused(tmp_path):
    tiny().save(tmp_path / "base", tiny().state_dict(), {})
    for i, ends in enumerate([[0, 500], [500, 1000]]):
        model = tiny()
        model.add_adapter(LoRA(2))
        about = {"range": ends, "num_timesteps": 1000, "base_model": str(tmp_path / "base")}
        model.save(tmp_path / str(i), model.state_dict(), about)
    words = ["export", listed([tmp_path / "0", tmp_path / "1"]), f"out={tmp_path}/out"]
    code, text = run(words, tmp_path)
    assert (code, "has no LoRA loader" in text, "lora.form=fuse" in text) == (2, True, True), text


def wan(place, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=32,
            freq_dim=256, ffn_dim=32, num_layers=2, cross_attn_norm=True, rope_max_seq_len=32)  # fmt: skip
        vae = diffusers.AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True])  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)
    diffusers.WanPipeline(None, None, vae, scheduler, network).save_pretrained(place)
    return place


def test_two_networks_become_a_pipeline_of_wan(tmp_path):
    low, high = wan(tmp_path / "low", 1), wan(tmp_path / "high", 2)
    out = tmp_path / "out"
    code, text = run(["export", listed([low, high]), f"out={out}"], tmp_path)
    assert (code, "type: boundary_ratio=<number" in text) == (2, True), text
    done_words = ["export", listed([low, high]), f"out={out}", "boundary_ratio=0.875"]
    assert run(done_words, tmp_path)[0] == 0
    assert run(done_words, tmp_path)[0] == 0  # again, over the untouched export
    assert json.loads((out / "model_index.json").read_text())["boundary_ratio"] == 0.875
    parts = {"text_encoder": None, "tokenizer": None}
    pipeline = diffusers.WanPipeline.from_pretrained(out, **parts)
    pipeline.set_progress_bar_config(disable=True)
    asked = []
    for name in ("transformer", "transformer_2"):
        part = getattr(pipeline, name)
        part.register_forward_pre_hook(lambda _, __, given, name=name: asked.append((name, float(given["timestep"][0]))), with_kwargs=True)  # fmt: skip
        source = diffusers.WanPipeline.from_pretrained(low if name == "transformer_2" else high, **parts)  # fmt: skip
        own = source.transformer.state_dict()
        assert all(torch.equal(own[key], value) for key, value in part.state_dict().items())
    draw = torch.Generator().manual_seed(0)
    pipeline(prompt_embeds=torch.randn(1, 8, 32, generator=draw), height=16, width=16, num_frames=1, guidance_scale=1.0,
             num_inference_steps=8, output_type="latent", generator=draw)  # fmt: skip
    assert {name for name, _ in asked} == {"transformer", "transformer_2"}
    assert all((name == "transformer") == (t >= 875) for name, t in asked)


def test_whole_models_of_other_families_say_what_to_do(tmp_path):
    for i in (0, 1):
        tiny().save(tmp_path / str(i), tiny().state_dict(), {"range": [500 * i, 500 * i + 500], "num_timesteps": 1000})  # fmt: skip
    code, text = run(["export", listed([tmp_path / "0", tmp_path / "1"]), f"out={tmp_path}/out"], tmp_path)  # fmt: skip
    assert (code, "Wan's pipeline" in text, "adapter=lora" in text) == (2, True, True), text
