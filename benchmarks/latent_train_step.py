"""What a training step on cached latents takes outside the network and the optimizer.

That is reading, drawing, noise, loss and the trainer. The shapes are Stable Diffusion's at half its
side: latents 4 x 32 x 32 and embeddings 77 x 768, encoded once by a made-up encoder and read from
the cache's shards (in the page cache: a cold disk is not measured). The method is continued
finetuning, whose step has no teacher, of a UNet2DConditionModel of 38M parameters, with the real
trainer, module, loader and average of the weights. Counted apart are the UNet's forward pass, the
backward pass, and the optimizer with clipping and the average; all else is `outside`. Times are CPU
seconds of the process (one thread), since wall-clock time on a shared machine depends on its other
users.

`python benchmarks/latent_train_step.py` writes results/latent_train_step.json.
"""

import argparse
import logging
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from diffusers import UNet2DConditionModel
from record import record
from torch import Tensor

from deme.data.latents import CachedLatents
from deme.diffusion import TEXT, Condition, RangeSampler, TimestepRange, generator
from deme.methods.finetune import Finetune
from deme.models.denoiser import DenoisingModel
from deme.training.batches import StepBatches, StepLoader
from deme.training.ema import warmup_ema
from deme.training.fit import Loop, make_trainer
from deme.training.learning_rate import ConstantRate
from deme.training.module import DiffusionModule

COUNT, SIDE, TOKENS, WIDTH, TARGET = 256, 32, 77, 768, 0.05
UNET = {
    "sample_size": SIDE,
    "block_out_channels": [160, 320, 320],
    "layers_per_block": 1,
    "attention_head_dim": 8,
    "cross_attention_dim": WIDTH,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}


class RandomImages:
    """Captioned images; what is in them does not matter."""

    def __len__(self) -> int:
        return COUNT

    def __getitems__(self, indices: list[int]) -> Tensor:
        return torch.zeros(len(indices), 3, 8, 8, dtype=torch.uint8)

    def captions(self, indices: list[int]) -> list[str]:
        return [f"image {index}" for index in indices]

    def content_hash(self) -> str:
        return "random images"


class RandomEncoder:
    """Answers of the shapes of Stable Diffusion's autoencoder and text encoder."""

    def content_hash(self) -> str:
        return "random encoder"

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(images), 4, SIDE, SIDE)
        return torch.randn(shape, generator=generator("means")), torch.full(shape, 0.1)

    def conditions(self, texts: Sequence[str]) -> Condition:
        return {TEXT: torch.randn(len(texts), TOKENS, WIDTH, generator=generator("texts"))}


class Clock(pl.Callback):
    """CPU seconds by part of a step; the first step, in which torch sets itself up, is left out."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._began: dict[str, float] = {}
        self._last = 0.0

    def begin(self, part: str) -> None:
        self._began[part] = time.process_time()

    def end(self, part: str) -> None:
        if self.steps:
            taken = time.process_time() - self._began[part]
            self.steps[-1][part] = self.steps[-1].get(part, 0.0) + taken

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*words: Any, **named: Any) -> Any:
            self.begin(part)
            try:
                return call(*words, **named)
            finally:
                self.end(part)

        return timed

    def step(self) -> None:
        """A step ends, and the next begins, when its batch is asked for."""
        now = time.process_time()
        if self.steps:
            self.steps[-1]["step"] = now - self._last
        self._last = now
        self.steps.append({})

    def on_before_backward(self, *_: Any) -> None:
        self.begin("backward")

    def on_after_backward(self, *_: Any) -> None:
        self.end("backward")

    def on_before_optimizer_step(self, *_: Any) -> None:  # before gradients are clipped
        self.begin("optimizer")


class TimedModule(DiffusionModule):
    clock: Clock

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)  # the average is updated in it
        self.clock.end("optimizer")


class TimedLatents(CachedLatents):
    clock: Clock

    def __getitems__(self, *wanted: list[int]) -> dict[str, Tensor]:
        self.clock.step()
        return self.clock.timed("reading", super().__getitems__)(*wanted)


def measure(cache: Path, batch_size: int, num_steps: int) -> list[dict[str, float]]:
    """Train; return the seconds of every step but the first, by part."""
    clock, images = (
        Clock(),
        TimedLatents(RandomImages(), RandomEncoder(), cache, caption_dropout=0.1),
    )
    model = DenoisingModel(UNet2DConditionModel(**UNET), SCHEDULER)
    model.unet.forward = clock.timed("forward", model.unet.forward)
    method = Finetune(torch.ones(1000), RangeSampler(TimestepRange(0, 1000), 1000))
    sample = clock.timed("drawing latents", images.training_sample)
    module = TimedModule(
        model,
        method,
        torch.optim.AdamW,
        ConstantRate(num_steps),
        warmup_ema,
        0,
        50,
        training_sample=sample,
    )
    module.clock = images.clock = clock
    loop = Loop(num_steps + 2, batch_size, 0, accelerator="cpu")
    batches = StepBatches(len(images), batch_size, num_steps + 2, 0)
    make_trainer(loop, [], [clock]).fit(module, StepLoader(images, batches))
    return clock.steps[1:-1]


def summary(steps: list[dict[str, float]]) -> dict[str, Any]:
    """Medians and ranges over steps."""
    inside = ("forward", "backward", "optimizer")
    outside = [step["step"] - sum(step[part] for part in inside) for step in steps]
    shares = sorted(value / step["step"] for value, step in zip(outside, steps, strict=True))
    parts = (
        *inside,
        "reading",
        "drawing latents",
        "step",
    )  # what of `outside` is neither: noise, loss, the trainer
    return {
        "share_outside": {
            "median": round(statistics.median(shares), 4),
            "min": round(shares[0], 4),
            "max": round(shares[-1], 4),
        },
        "ms": {
            "outside": round(statistics.median(outside) * 1e3, 2),
            **{
                part: round(statistics.median(step[part] for step in steps) * 1e3, 2)
                for part in parts
            },
        },
        "steps": len(steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4, help="that are measured, each repeat")
    parser.add_argument("--repeats", type=int, default=5)
    a = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    parameters = sum(p.numel() for p in UNet2DConditionModel(**UNET).parameters())
    steps: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(a.repeats):
            steps += measure(Path(folder), a.batch_size, a.steps)
            print(summary(steps[-a.steps :]), flush=True)
    result = {
        "parameters": parameters,
        "latent": [4, SIDE, SIDE],
        "embedding": [TOKENS, WIDTH],
        "images": COUNT,
        "batch_size": a.batch_size,
        "repeats": a.repeats,
        "target_share_outside": TARGET,
        **summary(steps),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": "cpu, one thread, CPU seconds",
    }
    record("latent_train_step", result)


if __name__ == "__main__":
    main()
