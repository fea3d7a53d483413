"""Both placements of the projections, and folding: for the block types of DDPM on CIFAR-10 and LSUN, and of Stable Diffusion."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

from deme.builders.checkpoints import copy_other_parts, fold_of, open_checkpoint
from deme.merging.combine import Merge
from deme.merging.methods.weighted_sum import weighted_sum
from deme.merging.plan import plan_merge
from deme.merging.stream import merge_folder
from deme.models.layout import PLACEMENT, PROJECTIONS, UNET
from deme.models.loading import load_pretrained
from deme.models.projection import PLACEMENTS, Projections
from deme.models.swapped import SwappedExperts
from deme.system import tensors
from deme.system.errors import BadConfig, WorkFailed
from deme.system.files import write_json
from tests.models import moved, tiny

CIFAR10 = {
    "sample_size": 32, "in_channels": 3, "out_channels": 3, "layers_per_block": 2, "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": None, "norm_eps": 1e-6, "downsample_padding": 0,
}  # fmt: skip
LSUN = {
    **CIFAR10, "sample_size": 256, "block_out_channels": [128, 128, 256, 256, 512, 512],
    "down_block_types": ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
}  # fmt: skip
SD = {
    "block_out_channels": [320, 640, 1280, 1280],
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}

SMALL = {"norm_num_groups": 4, "sample_size": 16}
SHAPES = {
    "cifar10": (UNet2DModel, {**CIFAR10, **SMALL, "block_out_channels": [8, 16, 16, 16]}, 21),
    "lsun": (UNet2DModel, {**LSUN, **SMALL, "sample_size": 32, "block_out_channels": [8, 8, 8, 8, 16, 16]}, 29),
    "padded, no mid attention": (UNet2DModel, {**CIFAR10, **SMALL, "block_out_channels": [8, 16, 16, 16],
                                 "downsample_padding": 1, "add_attention": False}, 20),
    "resnet samplers": (UNet2DModel, {**SMALL, "block_out_channels": [8, 16], "layers_per_block": 1, "attention_head_dim": 4,
                        "down_block_types": ["AttnDownBlock2D", "ResnetDownsampleBlock2D"], "up_block_types": ["ResnetUpsampleBlock2D", "AttnUpBlock2D"],
                        "downsample_type": "resnet", "upsample_type": "resnet", "resnet_time_scale_shift": "scale_shift"}, 11),
    "fir samplers": (UNet2DModel, {**SMALL, "block_out_channels": [32, 64], "layers_per_block": 1, "attention_head_dim": 4,
                     "down_block_types": ["SkipDownBlock2D", "AttnSkipDownBlock2D"], "up_block_types": ["AttnSkipUpBlock2D", "SkipUpBlock2D"]}, 8),
    "sd, convolutions": (UNet2DConditionModel, {**SD, **SMALL, "block_out_channels": [8, 16, 16, 16], "attention_head_dim": 2, "cross_attention_dim": 12}, 31),
    "sd, linear": (UNet2DConditionModel, {**SD, **SMALL, "block_out_channels": [8, 16, 16, 16], "attention_head_dim": 2, "cross_attention_dim": 12,
                   "use_linear_projection": True}, 31),
}  # fmt: skip


def network(name):
    kind, config, _ = SHAPES[name]
    torch.manual_seed(0)
    return kind(**config).eval()


def answer(unet, seed=1):
    g = torch.Generator().manual_seed(seed)
    size = unet.config["sample_size"]
    x_t = torch.randn(2, unet.config["in_channels"], size, size, generator=g)
    text = (torch.randn(2, 5, 12, generator=g),) if isinstance(unet, UNet2DConditionModel) else ()
    return unet(x_t, torch.tensor([3, 700]), *text, return_dict=False)[0]


def train(projections, size=0.1, seed=2):
    """Stand in for training: move every projection off the identity."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in projections.parameters():
            weight += size * torch.randn(weight.shape, generator=g) / weight.shape[0] ** 0.5


@pytest.mark.parametrize("name", SHAPES)
def test_folding_changes_the_weights_and_not_the_output(name):
    unet = network(name)
    stock = set(unet.state_dict())
    with torch.no_grad():
        plain = answer(unet)
        projections = Projections(unet, "foldable")
        assert len(projections) == SHAPES[name][2]
        assert torch.equal(answer(unet), plain)
        train(projections)
        before = answer(unet)
        assert (before - plain).abs().max() > 1e-3
        projections.fold()
        after = answer(unet)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    assert set(unet.state_dict()) == stock
    assert not any(module._forward_hooks for module in unet.modules())


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", SHAPES)
def test_every_projection_is_used_and_learns_with_and_without_gradient_checkpointing(
    name, placement
):
    gradients = []
    for checkpointing in (False, True):
        unet = network(name)
        projections = Projections(unet, placement)
        if checkpointing and not getattr(unet, "_supports_gradient_checkpointing", False):
            continue
        if checkpointing:
            unet.enable_gradient_checkpointing()
        answer(unet.train()).square().mean().backward()
        found = {key: p.grad for key, p in projections.named_parameters()}
        assert all(grad is not None and grad.abs().sum() > 0 for grad in found.values())
        gradients.append(found)
    for key, grad in gradients[-1].items():
        torch.testing.assert_close(grad, gradients[0][key], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", SHAPES)
def test_a_copy_folds_on_its_own(name):
    unet = network(name)
    projections = Projections(unet, "foldable")
    train(projections)
    two, other = copy.deepcopy((unet, projections))
    with torch.no_grad():
        before = answer(unet)
        other.fold()
        torch.testing.assert_close(answer(two), before, rtol=0, atol=1e-5)
        assert torch.equal(answer(unet), before)


def test_the_papers_placement_is_not_folded():
    with pytest.raises(BadConfig, match="placement blocks are not part of another layer"):
        Projections(network("cifar10"), "blocks").fold()


@pytest.mark.parametrize("placement", ["block", True, None])
def test_an_unknown_placement_is_refused(placement):
    with pytest.raises(
        BadConfig, match=r"projection\.placement must be null, blocks or foldable; got "
    ):
        Projections(network("cifar10"), placement)


@pytest.mark.parametrize(
    ("kind", "config", "unet", "blocks", "share", "foldable"),
    [
        (UNet2DModel, CIFAR10, 35_746_307, 491_520, 1.36, 21),
        (UNet2DModel, LSUN, 113_673_219, 1_638_400, 1.42, 29),
        (UNet2DConditionModel, SD, 859_520_964, 9_216_000, 1.0609, 31),
    ],
    ids=["cifar10", "lsun", "sd-1.4"],
)
def test_sizes_are_the_papers(kind, config, unet, blocks, share, foldable):
    with torch.device("meta"):
        model = kind(**config)
        added = {placement: Projections(model, placement) for placement in PLACEMENTS}
    count = {
        placement: sum(p.numel() for p in each.parameters()) for placement, each in added.items()
    }
    assert sum(p.numel() for p in model.parameters()) == unet
    assert count["blocks"] == blocks
    assert 100 * blocks / (unet + blocks) == pytest.approx(
        share, abs=0.5 * 10 ** -(4 if share == 1.0609 else 2)
    )
    assert len(added["foldable"]) == foldable
    widths = [p.weight.shape[0] for p in added["foldable"].values()]
    assert count["foldable"] == sum(width**2 for width in widths) > blocks


def projected(placement="foldable", seed=0, **unet):
    model = tiny(**unet)
    if placement:
        model.add_projections(placement)
        train(model.projections, seed=seed)
    return model


def prediction(model):
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return model(torch.randn(3, *model.image_shape, generator=g), torch.tensor([0, 300, 999]))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_folder_remembers_the_placement(placement, tmp_path):
    model = projected(placement)
    model.save(tmp_path / "m", model.state_dict(), {})
    again = load_pretrained(str(tmp_path / "m"))
    assert again.projections.placement == placement
    assert torch.equal(prediction(again), prediction(model))
    again.add_projections(placement)
    other = next(p for p in PLACEMENTS if p != placement)
    with pytest.raises(BadConfig, match=f"placement={placement}\ntype: projection={placement}"):
        again.add_projections(other)


def test_a_folder_from_before_there_was_a_choice_has_the_papers(tmp_path):
    model = projected("blocks")
    model.save(tmp_path / "m", model.state_dict(), {})
    (tmp_path / "m" / PLACEMENT).unlink()
    again = load_pretrained(str(tmp_path / "m"))
    assert again.projections.placement == "blocks"
    assert torch.equal(prediction(again), prediction(model))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_experts_are_swapped_with_their_projections(placement, tmp_path):
    models = [projected(placement, seed) for seed in (0, 1)]
    for seed, model in enumerate(models):
        model.save(tmp_path / str(seed), model.state_dict(), {})
    swapped = SwappedExperts([tmp_path / "0", tmp_path / "1"])
    for index in (1, 0, 1):
        with torch.no_grad():
            found = swapped.networks()[index](torch.ones(1, 1, 8, 8), torch.tensor([5]))
            assert torch.equal(found, models[index](torch.ones(1, 1, 8, 8), torch.tensor([5])))


def test_weights_are_not_read_into_another_placement(tmp_path):
    for placement in PLACEMENTS:
        model = projected(placement)
        model.save(tmp_path / placement, model.state_dict(), {})
    with pytest.raises(
        WorkFailed,
        match=r"foldable has foldable channel projections, .* blocks",
    ):
        load_pretrained(str(tmp_path / "blocks")).read_weights(tmp_path / "foldable")


def saved_experts(folder, placements, base_placement=None):
    base = projected(base_placement)
    base.save(folder / "base", base.state_dict(), {})
    for index, placement in enumerate(placements):
        model = projected(placement, seed=5 + index)
        moved(model.unet, index, 0.02)
        about = {"range": [500 * index, 500 * index + 500], "num_timesteps": 1000, "base": "hash"}
        model.save(folder / str(index), model.state_dict(), about)
    return planned(folder)


def planned(folder):
    return plan_merge(
        open_checkpoint(folder / "base"),
        [open_checkpoint(folder / name) for name in ("0", "1")],
        "hash",
    )


def merged_by(plan, weights, folder, fold=None):
    merge_folder(plan, Merge(weighted_sum, 2, weights), folder, fold=fold)
    copy_other_parts(plan, folder, with_projections=fold is None)
    return load_pretrained(str(folder))


def test_projections_and_layers_merge_apart_and_are_folded_then(tmp_path):
    """The definition (docs/method.md#projections): W' = (I + sum w (P_i - I)) (W + sum w (W_i - W)). Merging folded experts is another model."""
    plan = saved_experts(tmp_path, ["foldable", "foldable"])
    weights = [0.7, 0.4]

    merged = merged_by(plan, weights, tmp_path / "merged")
    assert merged.projections.placement == "foldable"
    key, name = "down_blocks.0.resnets.0.conv2.weight", "down_0_resnet.weight"
    base, one, two = (
        tensors.TensorFile(tmp_path / f / UNET).read(key).double() for f in ("base", "0", "1")
    )
    p, q = (
        tensors.TensorFile(tmp_path / f / PROJECTIONS).read(name)[:, :, 0, 0].double()
        for f in ("0", "1")
    )
    eye = torch.eye(len(p)).double()
    layer = base + 0.7 * (one - base) + 0.4 * (two - base)
    matrix = eye + 0.7 * (p - eye) + 0.4 * (q - eye)
    before = prediction(merged)
    merged.fold_projections()
    assert merged.projections is None
    torch.testing.assert_close(prediction(merged), before, rtol=0, atol=1e-5)
    found = merged.unet.state_dict()[key]
    torch.testing.assert_close(
        found, torch.einsum("oc,cikl->oikl", matrix, layer).float(), rtol=1e-5, atol=1e-6
    )
    at_once = merged_by(plan, weights, tmp_path / "folded", fold_of(plan))
    assert at_once.projections is None
    torch.testing.assert_close(prediction(at_once), before, rtol=0, atol=1e-5)
    torch.testing.assert_close(at_once.unet.state_dict()[key], found, rtol=1e-6, atol=1e-7)
    stock = UNet2DModel.from_pretrained(tmp_path / "folded" / "unet")
    assert torch.equal(stock.state_dict()[key], at_once.unet.state_dict()[key])
    folded = [torch.einsum("oc,cikl->oikl", m, w) for m, w in ((p, one), (q, two))]
    assert (found - weighted_sum(folded, base, weights).float()).abs().max() > 1e-4


@pytest.mark.parametrize("flat", [False, True])
def test_the_projections_of_a_base_are_where_its_weights_are(flat, tmp_path):
    """A base may be a bare UNet folder, its projections beside its weights: w = 0 gives them, not the identity."""
    saved_experts(tmp_path, ["blocks", "blocks"], "blocks")
    with torch.no_grad():
        base = projected("blocks", seed=9)
    base.save(tmp_path / "base", base.state_dict(), {})
    if flat:
        for file in sorted((tmp_path / "base" / "unet").iterdir()):
            file.rename(tmp_path / "base" / file.name)
        (tmp_path / "base" / "unet").rmdir()
    found = merged_by(planned(tmp_path), [0.0, 0.0], tmp_path / "merged")
    for name, value in base.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


@pytest.mark.parametrize("base", [None, "blocks"])
def test_experts_of_different_placements_are_not_merged(base, tmp_path):
    with pytest.raises(BadConfig) as error:
        saved_experts(tmp_path, ["foldable", "blocks"], base)
    assert f"{tmp_path / '0'} has channel projections with placement=foldable" in str(error.value)
    assert f"{tmp_path / '1'} has channel projections with placement=blocks" in str(error.value)


def test_neither_are_experts_of_a_base_with_another_placement(tmp_path):
    with pytest.raises(BadConfig, match="base has channel projections with placement=blocks"):
        saved_experts(tmp_path, ["foldable", "foldable"], "blocks")


def test_a_placement_on_disk_that_there_is_not_is_refused(tmp_path):
    model = projected()
    model.save(tmp_path / "m", model.state_dict(), {})
    write_json(tmp_path / "m" / PLACEMENT, {"placement": "everywhere"})
    with pytest.raises(BadConfig, match="got 'everywhere'"):
        load_pretrained(str(tmp_path / "m"))
