"""Every family of latent models, as a tiny random pipeline: equal to stock diffusers, trained, adapted, written."""

import diffusers
import pytest
import torch

from deme.builders import generate_images, guided
from deme.builders.figures import seconds_per_pass
from deme.data import CaptionedImages, InMemoryImages
from deme.data.conditioned import ConditionedPixels
from deme.data.latents import CachedLatents
from deme.data.prompts import Prompt, Prompts
from deme.diffusion import FlowSchedule, ShardedRandom, TimestepRange, generator, image_generator
from deme.diffusion.timesteps import RangeSampler
from deme.methods.deme import DeMe
from deme.models.adapter import BaseOfAdapter, LoRA
from deme.models.families.dit import build_dit
from deme.models.families.unconditional import build_unconditional
from deme.models.loading import families_by_network, load_folder, set_size
from deme.sampling.ddim import DDIM
from deme.sampling.ddpm import DDPM
from deme.sampling.flow import FlowEuler
from deme.sampling.generate import generate
from deme.system import BadConfig, MissingInput
from tests.models import UNET, tiny
from tests.pipelines import FAMILIES, saved

OFFSETS = {"sdxl": {"steps_offset": 1, "set_alpha_to_one": False}}
PROMPTS = ["a photo of the digit one", "seven"]
HAS_LORA_LOADER = ("flux", "sd3", "sana", "sdxl")


@pytest.fixture(scope="module", params=list(FAMILIES))
def pipeline(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("pipelines") / request.param
    return request.param, saved(request.param, place)


@pytest.fixture(scope="module")
def model(pipeline):
    return loaded(pipeline[1])


def loaded(folder):
    model = load_folder(str(folder))
    model.sample_size = (16, 16)  # of Flux no config says one
    return model


def stock(folder, **parts):
    found = diffusers.DiffusionPipeline.from_pretrained(folder, **parts)
    found.set_progress_bar_config(disable=True)
    return found


def noise(model, count):
    return torch.stack(
        [torch.randn(model.noise_shape, generator=image_generator(3, i)) for i in range(count)]
    )


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_images_are_those_of_the_stock_pipeline_from_equal_noise(pipeline, model, scale):
    name, folder = pipeline
    latents = given = noise(model, 2)
    theirs = stock(folder)
    _, height, width = model.image_shape
    more = {"pixart_sigma": {"use_resolution_binning": False, "clean_caption": False},
            "sana": {"use_resolution_binning": False, "clean_caption": False, "complex_human_instruction": None}}  # fmt: skip
    if name == "flux":
        given = theirs._pack_latents(latents, 2, 4, 16, 16)
    expected = theirs(
        PROMPTS, num_inference_steps=4, guidance_scale=scale, latents=given.clone(), height=height, width=width,
        output_type="latent", **more.get(name, {})).images  # fmt: skip
    if name == "flux":
        expected = theirs._unpack_latents(expected, height, width, theirs.vae_scale_factor)
    is_flow = isinstance(model.schedule, FlowSchedule)
    sampler = FlowEuler(4) if is_flow else DDIM(4, clip_sample=False, **OFFSETS.get(name, {}))
    found = []
    model.decode, kept = lambda x0: found.append(x0) or torch.zeros(len(x0), 3, 1, 1), model.decode
    try:
        prompts = Prompts("two", tuple(map(Prompt, PROMPTS)))
        network = guided(model, model, scale)
        list(generate_images(network, model, sampler, 3, [0, 1], 2, "cpu", prompts))
    finally:
        model.decode = kept
    torch.testing.assert_close(torch.cat(found), expected, rtol=1e-5, atol=1e-5)


def test_latents_are_scaled_as_the_pipeline_does_and_decoded_again(pipeline, model):
    images = torch.rand(2, *model.image_shape, generator=generator("images")) * 2 - 1
    mean, std = model.encoders.moments(images)
    vae = stock(pipeline[1]).vae
    found = vae.encode(images)
    known = getattr(found, "latent_dist", None)
    shift, scale = vae.config.get("shift_factor") or 0.0, vae.config["scaling_factor"]
    expected = (found.latent if known is None else known.mean) - shift
    torch.testing.assert_close(mean, expected * scale, rtol=1e-5, atol=1e-5)
    assert std.shape == mean.shape == (2, *model.noise_shape)
    decoded = model.decode(mean)
    torch.testing.assert_close(
        decoded, vae.decode(mean / scale + shift, return_dict=False)[0], rtol=1e-5, atol=1e-5
    )
    assert decoded.shape[1:] == model.image_shape


def test_experts_train_from_the_cache_with_and_without_an_adapter(pipeline, tmp_path):
    _, folder = pipeline
    teacher, data = loaded(folder), images_of(loaded(folder))
    for adapter in (None, LoRA(2)):
        model = loaded(folder)
        if adapter is not None:
            model.add_adapter(adapter)
        latents = CachedLatents(data, model.encoders, tmp_path, caption_dropout=0.5)
        total = model.schedule.num_timesteps
        sampler = RangeSampler(TimestepRange(0, total // 2), total)
        method = DeMe(torch.ones(total, dtype=torch.float64), sampler, 1.0)
        method.prepare(lambda m=model, a=adapter: BaseOfAdapter(m) if a else teacher, "cpu")
        optimizer = torch.optim.SGD(model.trained_parameters().values(), lr=1e-2)
        for step in range(2):
            draws = ShardedRandom(generator("family", step), 4, 0, 4)
            x0, condition = latents.training_sample(latents.__getitems__([0, 1, 2, 3]), draws)
            terms = method.losses(model, x0, draws, condition)
            optimizer.zero_grad()
            sum(terms.values()).backward()
            optimizer.step()
            assert all(bool(torch.isfinite(term)) for term in terms.values())
        assert float(terms["consistency"].detach()) > 0
        method.finish()
        optimizer.zero_grad()


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # Flux's norms
def test_a_base_in_bfloat16_gives_the_predictions_of_autocast(pipeline, model):
    _, folder = pipeline
    held = loaded(folder)
    held.add_adapter(LoRA(2, base_dtype="bfloat16"))
    condition, x_t, t = model.condition(PROMPTS), noise(model, 2), torch.tensor([10, 900])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        expected, found = model(x_t, t, condition), held(x_t, t, condition)
    assert torch.equal(found, expected)
    with torch.no_grad():
        exact, plain = model(x_t, t, condition), held(x_t, t, condition)
    assert plain.dtype == torch.float32
    assert float((plain - exact).norm() / exact.norm()) < 0.05


def images_of(model):
    _, height, width = model.image_shape
    pixels = torch.randint(
        0, 256, (4, 3, height, width), generator=generator("p"), dtype=torch.uint8
    )
    return CaptionedImages(InMemoryImages(pixels), ["one", "a photo of two", "", "three"])


def test_what_is_written_is_a_pipeline_of_diffusers(pipeline, model, tmp_path):
    model.save(tmp_path / "out", model.state_dict(), {})
    theirs, again = stock(tmp_path / "out"), loaded(tmp_path / "out")
    assert type(theirs).__name__ == model.pipeline
    condition = model.condition(PROMPTS)
    x_t, t = noise(model, 2), torch.tensor([10, 900])
    with torch.no_grad():
        expected = model(x_t, t, condition)
        assert torch.equal(again(x_t, t, condition), expected)
    state = getattr(theirs, model.part).state_dict()
    assert all(
        torch.equal(state[name], value) for name, value in model.network.state_dict().items()
    )


def test_a_merged_adapter_is_loaded_by_the_stock_pipeline(pipeline, model, tmp_path):
    name, folder = pipeline
    if name not in HAS_LORA_LOADER:
        pytest.skip("diffusers' pipeline has no LoRA loader")
    adapted = loaded(folder)
    adapted.add_adapter(LoRA(2, 8.0))
    for key, value in adapted.trained_parameters().items():
        if ".lora_B." in key:
            value.data = 0.2 * torch.randn(value.shape, generator=generator(key))
    adapted.save(tmp_path / "lora", adapted.state_dict(), {"base_model": str(folder)})
    theirs = stock(folder)
    theirs.load_lora_weights(tmp_path / "lora")
    condition, x_t, t = model.condition(PROMPTS), noise(model, 2), torch.tensor([10, 900])
    base, own = model.network, adapted.network
    try:
        with torch.no_grad():
            before = model(x_t, t, condition)
            setattr(model, model.part, getattr(theirs, model.part))
            found = model(x_t, t, condition)
            expected = adapted(x_t, t, condition)
    finally:
        setattr(model, model.part, base)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert float((found - before).abs().max()) > 1e-3
    assert own is not base


def test_a_pipeline_that_is_not_whole_is_one_message(pipeline, tmp_path):
    import shutil

    _name, folder = pipeline
    shutil.copytree(folder, tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "text_encoder")
    with pytest.raises(MissingInput, match="has no folder text_encoder"):
        load_folder(str(tmp_path / "part"))
    index = tmp_path / "part" / "model_index.json"
    index.write_text(index.read_text().replace('"_class_name": "', '"_class_name": "Other'))
    with pytest.raises(BadConfig, match=r"is a Other\w+; with this network only a \w+ is read"):
        load_folder(str(tmp_path / "part"))


def test_every_family_is_found_by_its_networks_class():
    known = families_by_network()
    assert {"UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel", "SD3Transformer2DModel",
            "UNet2DConditionModel with addition_embed_type=text_time", "PixArtTransformer2DModel", "SanaTransformer2DModel"} <= known.keys()  # fmt: skip
    for name in known:
        assert hasattr(diffusers, name.partition(" with ")[0])


def test_a_learned_variance_is_left_out_and_not_trained(tmp_path):
    """Networks that return 2C channels: the first C are the prediction (Nichol and Dhariwal 2021)."""
    whole = tiny(out_channels=2)
    whole.scheduler_config["variance_type"] = "learned_range"
    whole.save(tmp_path / "m", whole.state_dict(), {})
    model = load_folder(str(tmp_path / "m"))
    x_t, t = torch.randn(2, 1, 8, 8, generator=generator("v")), torch.tensor([3, 700])
    assert torch.equal(model(x_t, t), model.network(x_t, t).sample[:, :1])
    model(x_t, t).square().sum().backward()
    gradient = model.network.conv_out.weight.grad
    assert float(gradient[0].abs().sum()) > 0
    assert float(gradient[1].abs().sum()) == 0
    with pytest.raises(BadConfig, match=r"type: sampler\.variance_type=fixed_large"):
        DDPM(10).scheduler(model.scheduler_config)
    for sampler in (DDPM(10, variance_type="fixed_large"), DDIM(10)):
        images = list(
            generate(model, model.scheduler_config, model.noise_shape, sampler, 0, [0, 1], 2)
        )
        assert images[0].shape == (2, 1, 8, 8)


def test_a_unet_is_conditioned_on_classes(tmp_path):
    made = build_unconditional({**UNET, "num_class_embeds": 3}, {})
    made.save(tmp_path / "m", made.state_dict(), {})
    model = load_folder(str(tmp_path / "m"))
    x_t, t = torch.randn(2, 1, 8, 8, generator=generator("c")), torch.tensor([3, 700])
    stock_network = diffusers.UNet2DModel.from_pretrained(tmp_path / "m" / "unet")
    found = model(x_t, t, model.condition(["0", "2"]))
    torch.testing.assert_close(found, stock_network(x_t, t, torch.tensor([0, 2])).sample)
    assert not torch.equal(found, model(x_t, t, model.condition(["1", "2"])))
    with pytest.raises(BadConfig, match="classes 0 to 2"):
        model.condition(["3"])
    with pytest.raises(BadConfig, match=r"type: data\.caption_dropout=0"):
        guided(model, model, 2.0)
    assert seconds_per_pass(model) > 0
    assert not model.is_guidable
    pixels = torch.randint(0, 256, (4, 1, 8, 8), generator=generator("p"), dtype=torch.uint8)
    images = CaptionedImages(InMemoryImages(pixels), ["0", "1", "2", "1"])
    data = ConditionedPixels(images, model.condition)
    assert data.eval_sample([2, 3])[1]["class_labels"].tolist() == [2, 1]
    flipped = data.__getitems__([0, 1], [True, False])["pixels"]
    assert torch.equal(flipped, torch.stack([pixels[0].flip(2), pixels[1]]))


def test_classes_are_on_the_device_of_the_network():
    model = build_unconditional({**UNET, "num_class_embeds": 3}, {}).to("meta")
    assert model.condition(["1"])["class_labels"].device.type == "meta"


@pytest.mark.parametrize(("size", "allowed"), [(9, 8), (24, 24), (3, 2)])
def test_a_size_is_a_multiple_of_what_the_network_divides_by(size, allowed):
    model = build_unconditional(UNET, {})
    if size == allowed:
        set_size(model, size)
        assert model.image_shape[1:] == (size, size)
    else:
        with pytest.raises(
            BadConfig, match=rf"multiple of 2 pixels.*\ntype: model.size={allowed}$"
        ):
            set_size(model, size)


def test_images_need_not_be_square(pipeline, model, tmp_path):
    """Height is not width in the images, in training and in what the pipeline of diffusers makes."""
    name, folder = pipeline
    ours = loaded(folder)
    _, side, _ = ours.image_shape
    height = 2 * side if name == "sana" else side // 2  # Sana's are multiples of 32 pixels
    set_size(ours, [height, side])
    shape = (2, 3, height, side)
    assert ours.image_shape == shape[1:]
    pixels = torch.randint(0, 256, shape, generator=generator("wide"), dtype=torch.uint8)
    images = CaptionedImages(InMemoryImages(pixels), PROMPTS)
    data = CachedLatents(images, ours.encoders, tmp_path / "cache", 0.0)
    x0, condition = data.eval_sample([0, 1])
    assert tuple(x0.shape[1:]) == ours.noise_shape
    with torch.no_grad():
        found = ours(x0, torch.tensor([10, 900]), condition)
    assert found.shape == x0.shape
    theirs, latents = stock(folder), noise(ours, 2)
    more = {"pixart_sigma": {"use_resolution_binning": False, "clean_caption": False},
            "sana": {"use_resolution_binning": False, "clean_caption": False, "complex_human_instruction": None}}  # fmt: skip
    packed = theirs._pack_latents(latents, 2, *ours.noise_shape) if name == "flux" else latents
    expected = theirs(PROMPTS, num_inference_steps=3, guidance_scale=1.0, latents=packed.clone(), height=height, width=side,
                      output_type="latent", **more.get(name, {})).images  # fmt: skip
    if name == "flux":
        expected = theirs._unpack_latents(expected, height, side, theirs.vae_scale_factor)
    is_flow = isinstance(ours.schedule, FlowSchedule)
    sampler = FlowEuler(3) if is_flow else DDIM(3, clip_sample=False, **OFFSETS.get(name, {}))
    seen = []
    ours.decode = lambda x0: seen.append(x0) or torch.zeros(len(x0), 3, 1, 1)
    prompts = Prompts("two", tuple(map(Prompt, PROMPTS)))
    list(generate_images(guided(ours, ours, 1.0), ours, sampler, 3, [0, 1], 2, "cpu", prompts))
    torch.testing.assert_close(torch.cat(seen), expected, rtol=1e-5, atol=1e-5)


def test_a_dit_has_one_size():
    model = build_dit({"num_embeds_ada_norm": 4, "sample_size": 8, "in_channels": 1, "num_layers": 1,
                       "num_attention_heads": 1, "attention_head_dim": 8}, {})  # fmt: skip
    set_size(model, 8)
    with pytest.raises(BadConfig, match=r"type: model\.size=null"):
        set_size(model, 16)


def test_classes_are_dropped_for_no_class():
    model = build_dit({"num_embeds_ada_norm": 4, "sample_size": 8, "in_channels": 1, "num_layers": 1,
                       "num_attention_heads": 1, "attention_head_dim": 8}, {})  # fmt: skip
    assert model.condition(["0", "", "3"])["class_labels"].tolist() == [0, 4, 3]
    images = CaptionedImages(
        InMemoryImages(torch.zeros(400, 1, 8, 8, dtype=torch.uint8)), ["1"] * 400
    )
    data = ConditionedPixels(images, model.condition, 0.25)
    rows = list(range(400))
    _, told = data.training_sample(
        data.__getitems__(rows), ShardedRandom(generator("drop"), 400, 0, 400)
    )
    assert {*told["class_labels"].tolist()} == {1, 4}
    assert int((told["class_labels"] == 4).sum()) == pytest.approx(100, abs=35)
