"""LoRAs of other programs: read through diffusers' converters, and merged like ours."""

import diffusers
import pytest
import torch
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from deme.builders.adapters import adapters_of, merge_adapters
from deme.builders.checkpoints import open_plan
from deme.diffusion import generator
from deme.merging.combine import Merge
from deme.merging.methods.weighted_sum import weighted_sum
from deme.models.adapter import LoRA
from deme.models.adapter_files import write_adapter
from deme.models.adapter_tensors import delta_weight
from deme.system import BadConfig, WorkFailed
from deme.system.paths import locate
from tests.models import tiny
from tests.pipelines import saved

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def trained(network, rank, alpha, key):
    """Add a random adapter; return its changes by layer."""
    network.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS), "one")
    for name, value in network.named_parameters():
        if ".lora_B." in name:
            value.data = 0.1 * torch.randn(value.shape, generator=generator(key, name))
    found = {}
    for name, layer in network.named_modules():
        if hasattr(layer, "get_delta_weight"):
            found[name] = layer.get_delta_weight("one").detach()
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return locate("asset:captioned_digits")


@pytest.fixture(scope="module")
def loras(base, tmp_path_factory):
    """The same kind of LoRA as diffusers writes it and as kohya's scripts do, with other ranks and alphas."""
    place, changes, files = tmp_path_factory.mktemp("foreign"), [], []
    for number, (rank, alpha) in enumerate([(2, 4.0), (3, 1.0)]):
        network = diffusers.UNet2DConditionModel.from_pretrained(base / "unet")
        changes.append(trained(network, rank, alpha, number))
        state = get_peft_model_state_dict(network, adapter_name="one")
        if number == 0:
            diffusers.StableDiffusionPipeline.save_lora_weights(
                place / "diffusers",
                state,
                unet_lora_adapter_metadata=network.peft_config["one"].to_dict(),
            )
            files.append(place / "diffusers")
        else:
            kohya = convert_state_dict_to_kohya({f"unet.{n}": v for n, v in state.items()})
            kohya = {
                n: (torch.tensor(alpha) if n.endswith(".alpha") else v.contiguous())
                for n, v in kohya.items()
            }
            kohya = {
                n.replace("unet.", "lora_unet_", 1) if n.startswith("unet.") else n: v
                for n, v in kohya.items()
            }
            save_file(kohya, place / "kohya.safetensors")
            files.append(place / "kohya.safetensors")
    return files, changes


def test_the_changes_are_those_of_peft_with_alpha_and_rank(base, loras):
    files, changes = loras
    plan = open_plan({"path": str(base)}, files)
    adapters = adapters_of(plan)
    assert [len(a.layers) for a in adapters] == [len(c) for c in changes]
    for adapter, expected in zip(adapters, changes, strict=True):
        for layer, value in expected.items():
            torch.testing.assert_close(
                delta_weight(adapter.factors(layer)), value, rtol=1e-4, atol=1e-6
            )


def test_they_merge_into_one(base, loras, tmp_path):
    files, changes = loras
    plan = open_plan({"path": str(base)}, files)
    merged = merge_adapters(plan, Merge(weighted_sum, 2, [0.8, 0.5]), "cat", None, tmp_path / "m")
    assert merged.rank == 5
    stored = load_file(tmp_path / "m" / "pytorch_lora_weights.safetensors")
    for layer, one in changes[0].items():
        factors = tuple(stored[f"unet.{layer}.lora_{f}.weight"] for f in "AB")
        expected = 0.8 * one + 0.5 * changes[1][layer]
        torch.testing.assert_close(delta_weight(factors), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ({"unet.x.lora_A.weight": (2, 4), "unet.x.dora_scale": (4,)}, BadConfig, "of the kind DoRA"),
        ({"lora_unet_x.hada_w1_a": (2, 4)}, BadConfig, "of the kind LoHa"),
        ({"unet.mid_block.x.lora_A.weight": (2, 4), "unet.mid_block.x.lora_B.weight": (4, 2)}, BadConfig, "changes mid_block.x, which the base does not have"),
        ({"unet.mid_block.x.lora_A.weight": (2, 4)}, WorkFailed, "has only one of the factors A and B of layer mid_block.x"),
    ],
)  # fmt: skip
def test_other_adapters_are_one_message(tensors, error, message, base, tmp_path):
    file = tmp_path / "x.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, file)
    with pytest.raises(error, match=message):
        open_plan({"path": str(base)}, [file])


def test_a_lora_of_another_kind_of_base_is_one_message(base, tmp_path):
    model = tiny()
    model.add_adapter(LoRA(2))
    model.part = "transformer"  # as of another kind
    state = {f"transformer.{n.partition('.')[2]}": v for n, v in model.state_dict().items()}
    write_adapter(tmp_path / "lora", "transformer", state, model.adapter)
    with pytest.raises(
        BadConfig, match="is a LoRA of a transformer, and the base has no transformer"
    ):
        open_plan({"path": str(base)}, [tmp_path / "lora"])


def test_a_lora_of_a_transformer_is_read_with_its_metadata(tmp_path):
    folder = saved("sd3", tmp_path / "sd3")
    network = diffusers.SD3Transformer2DModel.from_pretrained(folder / "transformer")
    expected = trained(network, 2, 8.0, "sd3")
    state = get_peft_model_state_dict(network, adapter_name="one")
    diffusers.StableDiffusion3Pipeline.save_lora_weights(
        tmp_path / "lora",
        state,
        transformer_lora_adapter_metadata=network.peft_config["one"].to_dict(),
    )
    (adapter,) = adapters_of(open_plan({"path": str(folder)}, [tmp_path / "lora"]))
    assert sorted(adapter.layers) == sorted(expected)
    for layer, value in expected.items():
        torch.testing.assert_close(
            delta_weight(adapter.factors(layer)), value, rtol=1e-4, atol=1e-6
        )
