"""What training takes: `python -m tests.training_peak <setting> ...` prints the bytes at the peak, a line of JSON a setting.

Two steps of the real trainer, method, optimizer and average: from the second on all that is kept is there. Each setting has a
process of its own, forked after the imports and a step of a tiny network, whose memory is not counted. Run it with
MALLOC_MMAP_THRESHOLD_ set, or glibc keeps some of what was freed, and the peak is that of its fragments.
"""

import json
import logging
import os
import sys
import warnings
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel, UNet2DModel

from deme.diffusion import TEXT, TimestepRange
from deme.diffusion.timesteps import ProbabilisticSampler
from deme.methods.deme import DeMe
from deme.models.adapter import BaseOfAdapter, LoRA, add_lora_layers, matching_layers
from deme.models.denoiser import DenoisingModel
from deme.models.loading import families_by_network
from deme.training.batches import StepBatches, StepLoader
from deme.training.ema import warmup_ema
from deme.training.fit import Loop, make_trainer
from deme.training.learning_rate import ConstantRate
from deme.training.memory import Plan, training_memory
from deme.training.module import DiffusionModule

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from memory import peak_mb, resident_mb

TOKENS = 7
LARGE = {
    "sample_size": 8, "block_out_channels": [128, 256, 448], "layers_per_block": 1, "cross_attention_dim": 64, "attention_head_dim": 8,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}  # fmt: skip
WIDE = {
    "sample_size": 32, "block_out_channels": [32, 64], "layers_per_block": 2, "norm_num_groups": 8,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
TINY = {**WIDE, "sample_size": 8, "block_out_channels": [8, 8], "norm_num_groups": 4}
SETTINGS = {
    "nothing": (UNet2DModel, TINY, Plan(1)),
    "weights": (UNet2DConditionModel, LARGE, Plan(2)),
    "activations": (UNet2DModel, WIDE, Plan(24)),
    "checkpointing": (UNet2DModel, WIDE, Plan(48, checkpointing=True)),
    "bf16": (UNet2DConditionModel, LARGE, Plan(2, dtype=torch.bfloat16)),
    "lora": (UNet2DConditionModel, LARGE, Plan(2, base_teaches=True)),
}
LORA = LoRA(64)


class Latents:
    """As many numbers as an image and its caption have (`Prepared`)."""

    def __init__(self, shape, text):
        self.shape, self.text = shape, text

    def __len__(self):
        return 100

    def content_hash(self):
        return ""

    def __getitems__(self, indices):
        return {"x0": torch.zeros(len(indices), *self.shape)}

    def training_sample(self, batch, rows):
        count = len(batch["x0"])
        return batch["x0"], {TEXT: torch.zeros(count, *self.text)} if self.text else {}

    def eval_sample(self, indices):
        raise NotImplementedError


def train(network, inputs, plan, steps=2):
    scheduler = {"num_train_timesteps": 1000}
    model = DenoisingModel(network(), scheduler)
    if plan.checkpointing:
        model.unet.enable_gradient_checkpointing()
    method = DeMe(torch.ones(1000), ProbabilisticSampler(TimestepRange(0, 250), 1000, 0.3))
    if plan.base_teaches:
        model.add_adapter(LORA)
        method.prepare(lambda: BaseOfAdapter(model), "cpu", plan.dtype)
    else:
        method.prepare(lambda: DenoisingModel(network(), scheduler), "cpu", plan.dtype)
    images = Latents(inputs.rows["sample"][0], inputs.rows.get(TEXT, (None,))[0])
    rate = ConstantRate(steps)
    module = DiffusionModule(
        model,
        method,
        torch.optim.AdamW,
        rate,
        warmup_ema,
        0,
        log_every=50,
        training_sample=images.training_sample,
    )
    precision = "bf16-mixed" if plan.dtype else "32-true"
    trainer = make_trainer(
        Loop(steps, plan.batch_size, 0, precision=precision, accelerator="cpu"), [], []
    )
    trainer.fit(module, StepLoader(images, StepBatches(len(images), plan.batch_size, steps, 0)))
    assert trainer.global_step == steps


def told(name):
    """What the arithmetic says of a setting."""
    network, inputs, plan = parts(name)
    if not plan.base_teaches:
        return training_memory(network, network, inputs, plan)

    def adapted():
        one = network()
        targets = DenoisingModel.adapter_targets
        add_lora_layers(one, LORA, matching_layers(one, targets, all_needed=False))
        return one

    return training_memory(adapted, None, inputs, plan)


def parts(name):
    kind, config, plan = SETTINGS[name]
    with torch.device("meta"):
        whole = kind(**config).config
    inputs = families_by_network()[kind.__name__].network_inputs(whole, TOKENS)
    return lambda: kind(**config), inputs, plan


def main(names):
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    train(*parts("nothing"))
    for name in names:
        if child := os.fork():
            assert os.waitpid(child, 0)[1] == 0
            continue
        train(*parts("nothing"))  # the libraries are in this process's memory again
        before = resident_mb()
        train(*parts(name))
        print(json.dumps({name: (peak_mb() - before) * 2**20}), flush=True)
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
