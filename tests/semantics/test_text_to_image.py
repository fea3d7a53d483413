"""Text to image means what it says: what prompts do, what a network predicts, and that stock diffusers draws the same."""

import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from deme.builders.prompts import generate_images
from deme.data.captioned_digits import load_captioned_digits
from deme.data.prompts import Prompt, Prompts
from deme.diffusion import (
    RangeSampler,
    ShardedRandom,
    TimestepRange,
    bind_condition,
    generator,
    moved,
    rows_of,
)
from deme.diffusion.weighting import timestep_weights
from deme.diffusion.weighting.min_snr import MinSNR
from deme.methods.finetune import Finetune
from deme.metrics.digit_agreement import DigitAgreement
from deme.models.families.stable_diffusion import TEXT, TextToImageModel
from deme.models.frozen import FrozenEncoders
from deme.models.loading import load_pretrained
from deme.sampling.ddim import DDIM
from deme.sampling.guided import ClassifierFreeGuidance
from deme.sampling.pndm import PNDM
from deme.system.errors import BadConfig, MissingInput
from deme.system.paths import locate
from tests.models import moved as finetuned

BASE = "asset:captioned_digits"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def base():
    return load_pretrained(BASE)


@pytest.fixture
def folder(tmp_path):
    """A copy of the pipeline, to be spoilt."""
    return shutil.copytree(locate(BASE), tmp_path / "pipeline")


def ddim(num_inference_steps):
    return DDIM(num_inference_steps, clip_sample=False, steps_offset=1, set_alpha_to_one=False)


def asked(texts):
    return Prompts("test", tuple(Prompt(text) for text in texts))


def test_only_the_unet_is_trained_and_saved(base):
    names = [name for name, _ in base.named_parameters()]
    assert names
    assert all(name.startswith("unet.") for name in names)
    assert base.image_shape == (3, 16, 16)
    assert base.noise_shape == (4, 8, 8)


class AsV(nn.Module):
    """The v that an eps network's answer stands for: (eps - sigma x_t) / alpha."""

    def __init__(self, unet, schedule):
        super().__init__()
        self.unet, self.schedule, self.config = unet, schedule, unet.config

    def forward(self, x_t, timestep, return_dict=False, **condition):
        eps = self.unet(x_t, timestep, **condition, return_dict=False)[0]
        alpha_bar = self.schedule.alpha_squared[timestep].to(x_t)[:, None, None, None]
        return ((eps - (1 - alpha_bar).sqrt() * x_t) / alpha_bar.sqrt(),)


def test_eps_and_v_of_one_model_have_equal_losses(base):
    base = load_pretrained(BASE).double()
    as_v = TextToImageModel(
        AsV(base.unet, base.schedule),
        {**base.scheduler_config, "prediction_type": "v_prediction"},
        base.encoders,
    )
    draw = torch.Generator().manual_seed(0)
    x0 = torch.randn(16, 4, 8, 8, generator=draw, dtype=torch.float64)
    condition = {
        TEXT: base.condition([f"the digit {name}" for name in (*DIGITS, *DIGITS)[:16]])[
            TEXT
        ].double()
    }
    losses = []
    for model in (base, as_v):
        weights = timestep_weights(MinSNR(gamma=5.0), model.schedule.snr, model.prediction_type)
        method = Finetune(weights, RangeSampler(TimestepRange(0, 1000), 1000))
        with torch.no_grad():
            losses.append(
                float(
                    method.losses(model, x0, ShardedRandom(generator("v"), 16, 0, 16), condition)[
                        "denoising"
                    ]
                )
            )
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert losses[0] > 0


def test_guidance_is_the_difference_to_no_prompt(base):
    draw = torch.Generator().manual_seed(0)
    x_t, t = torch.randn(3, 4, 8, 8, generator=draw), torch.tensor([10, 500, 900])
    condition, nothing = (
        base.condition(["the digit one", "a handwritten two", "the digit nine"]),
        base.condition([""]),
    )
    with torch.no_grad():
        found = ClassifierFreeGuidance(base, 4.0, nothing)(x_t, t, condition)
        told = base(x_t, t, condition)
        without = base(x_t, t, {TEXT: nothing[TEXT].expand(3, -1, -1)})
    torch.testing.assert_close(found, without + 4 * (told - without), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(told, without, atol=1e-3)


def agreement(base, texts, scale, wanted, seed=0):
    network = ClassifierFreeGuidance(base, scale, base.condition([""])) if scale != 1 else base
    images = torch.cat(
        list(
            generate_images(
                network, base, ddim(10), seed, range(len(texts)), 100, "cpu", asked(texts)
            )
        )
    )
    judge = DigitAgreement("asset:digits_classifier.safetensors")
    return float(judge.score(judge(images), wanted).mean())


def test_guidance_raises_agreement_with_the_prompt_and_dropping_captions_lowers_it(base):
    wanted = [f"a photo of the digit {DIGITS[i % 10]}" for i in range(200)]
    guided, plain = agreement(base, wanted, 4.0, wanted), agreement(base, wanted, 1.0, wanted)
    dropped = agreement(base, [""] * 200, 1.0, wanted)
    assert guided > plain + 0.03
    assert plain > dropped + 0.2
    assert dropped < 0.25  # one of ten is right by chance


def test_a_schedule_that_diffusers_pndm_has_not_is_refused(base):
    with pytest.raises(BadConfig, match="type: sampler=ddim_latent"):
        PNDM(8).scheduler({**base.scheduler_config, "rescale_betas_zero_snr": True})


@pytest.mark.parametrize("sampler", [ddim(8), PNDM(8)], ids=["ddim", "pndm"])
def test_stock_diffusers_draws_the_same_pictures(base, tmp_path, sampler):
    """The pipeline's own loop, from our noise, guided: latents and pictures agree."""
    model = finetuned(load_pretrained(BASE), 3, 0.01)
    model.save(tmp_path / "model", model.state_dict(), {})
    stock = StableDiffusionPipeline.from_pretrained(tmp_path / "model", low_cpu_mem_usage=False)
    stock.set_progress_bar_config(disable=True)
    stock.scheduler = sampler.scheduler(model.scheduler_config)
    texts = ["a photo of the digit seven", "the digit two", "a handwritten five"]
    from deme.diffusion import image_generator

    noise = torch.stack(
        [torch.randn(model.noise_shape, generator=image_generator(5, i)) for i in range(3)]
    )
    theirs = stock(
        texts,
        latents=noise,
        num_inference_steps=8,
        guidance_scale=3.0,
        height=16,
        width=16,
        output_type="pt",
    ).images
    seen = []
    decode = model.decode
    model.decode = lambda x0: seen.append(decode(x0)) or seen[-1]
    list(
        generate_images(
            ClassifierFreeGuidance(model, 3.0, model.condition([""])),
            model,
            sampler,
            5,
            range(3),
            3,
            "cpu",
            asked(texts),
        )
    )
    ours = (seen[0] / 2 + 0.5).clamp(0, 1)
    assert float((ours - theirs).abs().max()) < 1e-4
    assert float(theirs.std()) > 0.1


def test_a_prompts_own_seed_is_its_noise(base):
    prompts = Prompts("seeds", tuple(Prompt("the digit two", seed=s) for s in (7, 8, 7)))
    images = next(iter(generate_images(base, base, ddim(3), 0, range(3), 3, "cpu", prompts)))
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])


def test_images_do_not_depend_on_the_batch(base):
    prompts = asked([f"the digit {name}" for name in DIGITS[:5]])
    whole = torch.cat(list(generate_images(base, base, ddim(3), 0, range(5), 5, "cpu", prompts)))
    parts = torch.cat(list(generate_images(base, base, ddim(3), 0, range(5), 2, "cpu", prompts)))
    assert int((whole.int() - parts.int()).abs().max()) <= 1


def test_a_long_text_keeps_its_end_token_and_is_counted():
    encoders = FrozenEncoders(locate(BASE), BASE)
    long = "the digit " * 40
    ids = encoders.tokens([long, "the digit two"])
    assert ids.shape == (2, encoders.max_tokens)
    assert int(ids[0, -1]) == encoders.tokenizer.eos_token_id
    assert encoders.truncated([long, "the digit two", ""]) == 1


def test_latents_decode_to_the_images_that_they_are_of(base):
    pixels = load_captioned_digits().held_out.__getitems__(list(range(32)))
    x0 = pixels.float() / 127.5 - 1
    mean, std = base.encoders.moments(x0)
    assert float((base.decode(mean) - x0).abs().mean()) < 0.1
    assert float(mean.std()) == pytest.approx(1, abs=0.15)
    assert float(std.mean()) < 0.5


def test_conditions_of_rows():
    condition = {TEXT: torch.arange(6.0).reshape(3, 2)}
    assert rows_of(condition, [2, 0])[TEXT].tolist() == [[4, 5], [0, 1]]
    assert moved(condition, "cpu")[TEXT] is condition[TEXT]
    network = len
    assert bind_condition(network, {}) is network  # what is told nothing is called as ever


def edited(folder, part, **more):
    file = folder / part
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}))


def test_other_families_are_refused(folder):
    edited(
        folder, "model_index.json", text_encoder_2=["transformers", "CLIPTextModelWithProjection"]
    )
    with pytest.raises(
        BadConfig, match=r"text_encoder_2; a UNet2DConditionModel without addition_embed_type"
    ):
        load_pretrained(str(folder))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("unet/config.json", {"in_channels": 5}, "5 channels in and 4 out .*inpainting"),
        (
            "unet/config.json",
            {"cross_attention_dim": 64},
            "embeddings of length 64 and a text encoder that gives 32",
        ),
        (
            "unet/config.json",
            {"addition_embed_type": "text_time"},
            "only a StableDiffusionXLPipeline is read",
        ),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "prediction_type='flow'"),
    ],
)
def test_a_pipeline_that_does_not_fit_is_refused_in_one_message(folder, part, change, message):
    edited(folder, part, **change)
    with pytest.raises(BadConfig, match=message):
        load_pretrained(str(folder))


def test_a_bare_unet_says_that_it_needs_its_pipeline(folder):
    shutil.rmtree(folder / "vae")
    with pytest.raises(MissingInput, match="no vae"):
        load_pretrained(str(folder))
