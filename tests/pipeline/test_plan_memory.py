"""The lines on memory of `deme plan`: from suites, without their data or weights."""

import re
from pathlib import Path

import pytest
import yaml

from deme.commands import training_memory
from deme.commands.training_memory import memory_lines
from deme.runs import Suite
from deme.system import files

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
WORDS = ["data=digits", "compute=cpu"]


def lines(rows, place, **more):
    spec = {
        "suite": "s",
        "baseline": "before",
        "metrics": ["loss"],
        "finetune_seeds": [0, 1],
        "sample_seeds": [1],
        **more,
    }
    rows = [
        {"name": name, "label": name, "train": [*WORDS, *words]} for name, words in rows.items()
    ]
    (place / "s.yaml").write_text(
        yaml.safe_dump({**spec, "rows": [*rows, {"name": "before", "label": "b", "evaluate": []}]})
    )
    return list(memory_lines(Suite.read(place / "s.yaml", place / "runs")))


def test_trainings_that_take_the_same_are_one_line_and_a_teacher_is_another(in_tmp):
    found = lines(
        {"finetune": [], "min_snr": ["weighting=min_snr", "optimizer.lr=0.1"], "deme": ["method=deme", "expert=0"],
         "alone": ["method=deme", "expert=0", "method.consistency_weight=0", "ema=none"]}, in_tmp)  # fmt: skip
    assert len(found) == 3
    assert found[0].startswith(
        "training memory: 15 MB (weights 0.16, gradients 0.16, optimizer 0.32, average 0.16, act"
    )
    assert found[0].endswith(") at batch 128, 32-true: finetune, min_snr")
    assert "teacher 0.16" in found[1]
    assert "teacher" not in found[2]
    assert "average" not in found[2]


def test_an_adapter_is_told_and_its_rank_counts(in_tmp):
    deme = ["method=deme", "expert=0", "adapter=lora"]
    four, eight, none = lines(
        {"four": [*deme, "adapter.rank=4"], "eight": [*deme, "adapter.rank=8"], "none": ["method=deme", "expert=0"]},
        in_tmp)  # fmt: skip
    assert "teacher" not in four
    assert "teacher 0.16" in none
    sizes = [float(re.search(r"gradients ([\d.e-]+)", line)[1]) for line in (four, eight)]
    assert sizes[1] == pytest.approx(2 * sizes[0], rel=0.1)


def test_options_of_compute_are_told(in_tmp):
    words = ["compute.precision=bf16-mixed", "compute.gradient_checkpointing=true", "batch_size=64"]
    (line,) = lines({"finetune": words}, in_tmp)
    assert line.endswith("at batch 64, bf16-mixed, gradient checkpointing: finetune")
    assert "low-precision copies 0.08" in line


def test_what_is_shipped_for_the_experiments_is_what_would_be_computed(in_tmp, monkeypatch):
    smoke = Suite.read(EXPERIMENTS / "digits" / "smoke.yaml", in_tmp, [f"paths.cache={in_tmp}"])
    shipped = list(memory_lines(smoke))
    for name in ("digits", "captioned_digits"):
        assert all(
            "activations" in line for line in memory_lines(Suite.read(EXPERIMENTS / name, in_tmp))
        )
    assert not (in_tmp / "memory").exists()
    files.write_json(in_tmp / "none.json", {})
    monkeypatch.setattr(training_memory, "SHIPPED", in_tmp / "none.json")
    assert list(memory_lines(smoke)) == shipped
    assert (in_tmp / "memory").exists()


def test_it_is_kept_by_content(in_tmp, monkeypatch):
    before = lines({"finetune": ["batch_size=31"]}, in_tmp)
    again = lambda *_: pytest.fail("computed twice")  # noqa: E731
    monkeypatch.setattr("deme.training.memory.training_memory", again)
    assert lines({"finetune": ["batch_size=31"]}, in_tmp) == before


def test_a_base_that_is_not_trained_yet_is_known_by_its_config(in_tmp):
    rows = {
        "base": ["model=ddpm_compact", "method=pretrain"],
        "deme": ["method=deme", "expert=0", "projection=blocks"],
    }
    base, deme = lines(rows, in_tmp, pretrained_by="base")
    assert "(weights 0.036, " in base  # 4 bytes x 8,952,067
    assert "(weights 0.036, " in deme
    assert "teacher 0.036" in deme


def test_a_model_that_is_not_here_or_that_none_can_be_made_of_is_unknown(in_tmp):
    (line,) = memory_lines(Suite.read(EXPERIMENTS / "lsun_church", in_tmp))
    assert line.startswith(
        "training memory: unknown: models/ddpm-ema-church-256 is not here: finetune, "
    )
    files.write_json(Path("other/unet/config.json"), {"_class_name": "UNet3DConditionModel"})
    (line,) = lines({"finetune": ["model=diffusers", "model.path=other"]}, in_tmp)
    assert "unknown: a UNet3DConditionModel cannot be trained here" in line
    (line,) = lines(
        {"finetune": ["model=digits_unet", "model.unet.block_out_channels=[8]"]}, in_tmp
    )
    assert line.startswith("training memory: unknown: Must provide the same number of")


def test_a_text_to_image_model_is_told_texts(in_tmp):
    unet = {"_class_name": "UNet2DConditionModel", "sample_size": 8, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 16,
            "block_out_channels": [32, 32], "layers_per_block": 1, "attention_head_dim": 4, "norm_num_groups": 8,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}  # fmt: skip
    files.write_json(Path("sd/unet/config.json"), unet)
    found = []
    for tokens in (7, 77):
        files.write_json(Path("sd/text_encoder/config.json"), {"max_position_embeddings": tokens})
        (line,) = lines({"finetune": ["model=diffusers", "model.path=sd"]}, in_tmp)
        found.append(line)
    assert "activations" in found[0]
    assert found[0] != found[1]
