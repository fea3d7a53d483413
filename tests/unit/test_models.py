import pytest
import torch
from diffusers import DDPMPipeline

from deme.models.layout import PROJECTIONS, UNET
from deme.models.loading import load_pretrained
from deme.system import tensors
from deme.system.errors import BadConfig, MissingInput, WorkFailed
from tests.models import tiny


def batch(model, n=3):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, *model.image_shape, generator=g), torch.randint(
        0, 1000, (n,), generator=g
    )


@pytest.mark.parametrize("attention", [False, True])
def test_identity_projections_change_no_bit_and_no_skip_tensor(attention):
    kinds = {
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    }
    model = tiny(add_attention=attention, attention_head_dim=4, **(kinds if attention else {}))
    skips = []
    for block in model.unet.down_blocks:
        block.register_forward_hook(lambda _, __, out: skips.append([s.clone() for s in out[1]]))
    x_t, t = batch(model)
    with torch.no_grad():
        before = model(x_t, t)
        plain, skips = skips, []
        model.add_projections()
        assert torch.equal(model(x_t, t), before)
        projected, skips = skips, []
        for projection in model.projections.values():
            projection.weight.mul_(2)
        assert not torch.equal(model(x_t, t), before)
    assert all(
        torch.equal(a, b)
        for one, two in zip(plain, projected, strict=True)
        for a, b in zip(one, two, strict=True)
    )
    # the first block's own skips do not see its projection; the second block's input does
    assert all(torch.equal(a, b) for a, b in zip(plain[0], skips[0], strict=True))
    assert not torch.equal(plain[1][0], skips[1][0])


def test_projections_sit_after_every_block_with_its_channels():
    model = tiny()
    model.add_projections()
    shapes = {name: p.weight.shape[0] for name, p in model.projections.items()}
    assert shapes == {"down_0": 4, "down_1": 8, "mid": 8, "up_0": 8, "up_1": 4}
    assert all(p.requires_grad for p in model.projections.parameters())


@pytest.mark.parametrize("projected", [False, True])
def test_a_saved_model_loads_back_bit_for_bit(tmp_path, projected):
    model = tiny()
    if projected:
        model.add_projections()
        torch.nn.init.normal_(model.projections["mid"].weight)
    model.save(tmp_path / "m", model.state_dict(), {"range": None})
    again = load_pretrained(str(tmp_path / "m"))
    x_t, t = batch(model)
    with torch.no_grad():
        assert torch.equal(again(x_t, t), model(x_t, t))
    assert (tmp_path / "m" / PROJECTIONS).exists() == projected


def test_stock_diffusers_loads_what_we_save(tmp_path):
    model = tiny(prediction_type="v_prediction", num_timesteps=500)
    model.save(tmp_path / "m", model.state_dict(), {})
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "m")
    x_t, t = batch(model)
    with torch.no_grad():
        assert torch.equal(pipeline.unet(x_t, t % 500).sample, model(x_t, t % 500))
    assert pipeline.scheduler.config["prediction_type"] == "v_prediction"
    again = load_pretrained(str(tmp_path / "m"))
    assert (again.prediction_type, again.schedule.num_timesteps) == ("v_prediction", 500)


def test_we_load_what_stock_diffusers_saves(tmp_path):
    model = tiny()
    from diffusers import DDPMScheduler

    DDPMPipeline(
        model.unet, DDPMScheduler(beta_schedule="scaled_linear", beta_end=0.012)
    ).save_pretrained(tmp_path / "m")
    again = load_pretrained(str(tmp_path / "m"))
    x_t, t = batch(model)
    with torch.no_grad():
        assert torch.equal(again(x_t, t), model(x_t, t))
    assert (
        again.schedule.alpha_squared[-1] > model.schedule.alpha_squared[-1]
    )  # the checkpoint's schedule, not a default


@pytest.fixture
def saved(tmp_path):
    model = tiny()
    model.save(tmp_path / "m", model.state_dict(), {})
    return tmp_path / "m"


def test_missing_weights_are_named(saved):
    (saved / UNET).unlink()
    with pytest.raises(MissingInput, match=r"diffusion_pytorch_model\.safetensors does not exist"):
        load_pretrained(str(saved))


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(MissingInput, match="is not a diffusers model folder"):
        load_pretrained(str(tmp_path))


def test_cut_weights_are_damaged(saved):
    data = (saved / UNET).read_bytes()
    (saved / UNET).write_bytes(data[: len(data) // 2])
    with pytest.raises(WorkFailed, match="is damaged"):
        load_pretrained(str(saved))


def test_nan_weights_are_refused_by_name(saved):
    state = tensors.TensorFile(saved / UNET).read_all()
    state["conv_in.bias"][0] = float("nan")
    tensors.save(saved / UNET, state)
    with pytest.raises(WorkFailed, match=r"conv_in\.bias .* NaN"):
        load_pretrained(str(saved))


def test_weights_of_another_shape_are_refused(saved):
    state = tensors.TensorFile(saved / UNET).read_all()
    state["conv_in.bias"] = torch.zeros(3)
    tensors.save(saved / UNET, state)
    with pytest.raises(WorkFailed, match=r"conv_in\.bias \(expected \(4,\), found \(3,\)\)"):
        load_pretrained(str(saved))


def test_another_kind_of_model_is_refused(saved):
    config = saved / "unet" / "config.json"
    config.write_text(config.read_text().replace("UNet2DModel", "UNet3DConditionModel"))
    with pytest.raises(BadConfig, match=r"allowed: .*UNet2DModel"):
        load_pretrained(str(saved))
