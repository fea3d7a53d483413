"""Checkpoints of the original DDPM layout against another implementation of its network."""

import pytest
import torch
from diffusers import UNet2DModel

from deme.models.original_ddpm import convert, pick, rename
from deme.system.errors import BadConfig, WorkFailed
from tests.original_ddpm import CIFAR, LSUN, network

SHAPES = {
    "cifar": (CIFAR, 32),
    "lsun": (LSUN, 64),
    "grey": (
        {"base": 32, "multipliers": (1, 2), "attention": (0, 1), "blocks": 3, "channels": 1},
        16,
    ),
}


def both(shape, size, **other):
    """The original's answer and the converted network's, whose config may be made another."""
    original = network(**shape)
    config, state = convert(original.state_dict(), size)
    converted = UNet2DModel(**config | other).eval()
    converted.load_state_dict(state, strict=True)
    x_t = torch.randn(
        2, config["in_channels"], size, size, generator=torch.Generator().manual_seed(1)
    )
    t = torch.tensor([3, 871])
    with torch.no_grad():
        return original(x_t, t), converted(x_t, t).sample


@pytest.mark.parametrize("name", SHAPES)
def test_the_converted_network_answers_as_the_original(name):
    expected, found = both(*SHAPES[name])
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(
        found, expected, rtol=0, atol=5e-6
    )  # float32 rounds either by 1e-6 to 2e-6


@pytest.mark.parametrize(
    "other",
    [{"flip_sin_to_cos": True}, {"freq_shift": 0}, {"downsample_padding": 1}, {"attention_head_dim": 8}, {"norm_eps": 1e-3}],
    ids=str,
)  # fmt: skip
def test_every_setting_that_no_tensor_shows_matters(other):
    expected, found = both(*SHAPES["cifar"], **other)
    assert float((found - expected).abs().max()) > 1e-4


def test_the_architecture_is_told_from_the_shapes():
    config, _ = convert(network(**LSUN).state_dict())
    assert config["sample_size"] == 256
    assert config["block_out_channels"] == [32, 32, 64, 64, 128, 128]
    assert config["layers_per_block"] == 2
    assert [kind.startswith("Attn") for kind in config["down_block_types"]] == [False] * 4 + [
        True,
        False,
    ]
    assert [kind.startswith("Attn") for kind in config["up_block_types"]] == [False, True] + [
        False
    ] * 4
    assert convert(network(**CIFAR).state_dict())[0]["sample_size"] == 32
    assert convert(network(**CIFAR).state_dict(), size=48)[0]["sample_size"] == 48


@pytest.mark.parametrize("option", ["ddpm_cifar10", "ddpm_lsun256"])
def test_the_published_networks_are_the_options_of_the_same_name(option, in_tmp):
    """Names, shapes and every setting but dropout, which no checkpoint shows."""
    from deme.runs import compose_stage
    from tests.original_ddpm import OriginalDDPM

    shape = {"ddpm_cifar10": CIFAR, "ddpm_lsun256": LSUN}[option]
    with torch.device("meta"):
        config, state = convert(OriginalDDPM(**shape | {"base": 128}).state_dict())
        unet = UNet2DModel(**config)
    spec = compose_stage("train", [f"model={option}"])["model"]["unet"]
    assert {key: spec[key] for key in spec if key != "dropout"} == config
    assert {n: v.shape for n, v in unet.state_dict().items()} == {
        n: v.shape for n, v in state.items()
    }


def test_names_of_data_parallel_and_unused_parameters():
    state = network(**CIFAR).state_dict()
    config, expected = convert(state)
    again, found = convert(
        {f"module.{name}": value for name, value in state.items()} | {"logvar": torch.zeros(1000)}
    )
    assert again == config
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("up.0.block.2.nin_shortcut.weight", "up_blocks.3.resnets.2.conv_shortcut.weight"),
        ("up.3.upsample.conv.bias", "up_blocks.0.upsamplers.0.conv.bias"),
        ("down.1.attn.0.proj_out.weight", "down_blocks.1.attentions.0.to_out.0.weight"),
        ("mid.attn_1.norm.bias", "mid_block.attentions.0.group_norm.bias"),
        ("mid.block_2.temb_proj.weight", "mid_block.resnets.1.time_emb_proj.weight"),
        ("temb.dense.1.bias", "time_embedding.linear_2.bias"),
        ("norm_out.weight", "conv_norm_out.weight"),
    ],
)
def test_names(name, expected):
    assert rename(name, 4) == expected


def parts():
    raw, ema = (network(seed, **CIFAR).state_dict() for seed in (0, 1))
    return {f"module.{name}": value for name, value in raw.items()}, ema


@pytest.mark.parametrize(
    ("checkpoint", "ema", "index", "said"),
    [
        (lambda raw, ema: ema, None, 1, None),
        (lambda raw, ema: ema, True, 1, True),
        (lambda raw, ema: [raw, {"state": {}}, 3, 1000, ema], None, 1, True),
        (lambda raw, ema: [raw, {"state": {}}, 3, 1000, ema], False, 0, False),
        (lambda raw, ema: [raw, {"state": {}}, 3, 1000], None, 0, False),
        (lambda raw, ema: {"model": raw, "ema_model": ema, "step": 3}, None, 1, True),
        (lambda raw, ema: {"model": raw, "ema_model": ema, "step": 3}, False, 0, False),
        (lambda raw, ema: {"state_dict": raw}, None, 0, None),
        (lambda raw, ema: {"state_dict": raw}, True, 0, True),
    ],
)
def test_the_moving_average_is_picked_where_there_is_one(checkpoint, ema, index, said):
    both = parts()
    state, told = pick(checkpoint(*both), ema)
    assert state is both[index]
    assert told is said


@pytest.mark.parametrize(
    ("checkpoint", "ema", "error", "message"),
    [
        (
            lambda raw, ema: [raw, {}, 3, 1000],
            True,
            BadConfig,
            "0 parts of it could be the moving average; it holds model",
        ),
        (
            lambda raw, ema: {"ema_1": ema, "ema_2": ema},
            None,
            BadConfig,
            "2 parts of it could be the moving average",
        ),
        (lambda raw, ema: {"ema": ema}, False, BadConfig, "0 parts of it could be the weights"),
        (
            lambda raw, ema: {"conv.weight": torch.zeros(1)},
            None,
            WorkFailed,
            "no weights of the original DDPM layout",
        ),
        (lambda raw, ema: 3, None, WorkFailed, "no weights of the original DDPM layout"),
    ],
)
def test_a_checkpoint_without_the_part_is_refused(checkpoint, ema, error, message):
    with pytest.raises(error, match=message):
        pick(checkpoint(*parts()), ema)


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda s: s | {"down.0.extra.weight": torch.zeros(1)},
            WorkFailed,
            r"down\.0\.extra\.weight is not a name of",
        ),
        (lambda s: without(s, "conv_out.weight"), WorkFailed, r"conv_out\.weight is missing"),
        (
            lambda s: without(s, "down.0.downsample.conv.weight"),
            BadConfig,
            "resizes without convolutions",
        ),
        (
            lambda s: s | {"conv_out.weight": torch.zeros(6, 32, 3, 3)},
            BadConfig,
            "6 channels of 3: a learned variance",
        ),
        (
            lambda s: s | {"down.1.block.0.conv_shortcut.weight": torch.zeros(1)},
            BadConfig,
            "3x3 convolutions",
        ),
        (
            lambda s: s | {"down.3.block.2.conv1.weight": torch.zeros(1)},
            BadConfig,
            r"different numbers of blocks: \[2, 3\]",
        ),
        (
            lambda s: s | {"down.0.block.0.conv1.weight": torch.zeros(48, 32, 3, 3)},
            BadConfig,
            "another width than conv_in",
        ),
        (
            lambda s: s | {"down.1.block.0.conv1.weight": torch.zeros(48, 32, 3, 3)},
            BadConfig,
            "not multiples of 32",
        ),
    ],
)
def test_other_networks_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        convert(change(network(**CIFAR).state_dict()))


def test_a_network_of_another_depth_must_be_told_its_size():
    state = network(base=32, multipliers=(1, 1, 1), attention=()).state_dict()
    with pytest.raises(
        BadConfig, match="3 resolutions may make images of any size\ntype: size=<pixels>"
    ):
        convert(state)
    assert convert(state, 28)[0]["sample_size"] == 28
