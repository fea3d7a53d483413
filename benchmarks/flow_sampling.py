"""Flow-matching sampling compared with diffusers' StableDiffusion3Pipeline, in float32.

A transformer of Stable Diffusion 3's kind with random weights (8 blocks, 512 wide, latents
16 x 32 x 32, 77 tokens), Euler's method, the same noise and embeddings, without guidance; both
return latents. They take turns in one process; times are CPU seconds (one thread) on a CPU,
seconds on a GPU (`--device cuda`).

`python benchmarks/flow_sampling.py` writes results/flow_sampling_<device>.json.
"""

import argparse
import platform
import time
import warnings

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from record import record
from torch import Tensor
from turns import spread

from deme.diffusion import TEXT, image_generator
from deme.models.families.sd3 import POOLED, SD3Model
from deme.sampling.flow import FlowEuler
from deme.sampling.generate import generate

TOKENS, WIDTH, POOLED_WIDTH, SIDE = 77, 512, 256, 32
TARGETS = {"ours_over_pipeline": 1.02, "largest_difference": 1e-5}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    a = parser.parse_args()
    warnings.simplefilter("ignore")
    if a.device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)
    network = SD3Transformer2DModel(
        sample_size=SIDE, num_layers=8, attention_head_dim=64, num_attention_heads=WIDTH // 64,
        joint_attention_dim=WIDTH, caption_projection_dim=WIDTH, pooled_projection_dim=POOLED_WIDTH,
        in_channels=16, out_channels=16, pos_embed_max_size=SIDE,
    ).eval()  # fmt: skip
    network.to(a.device)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    down, up = ["DownEncoderBlock2D"] * 4, ["UpDecoderBlock2D"] * 4
    vae = AutoencoderKL(
        latent_channels=16, block_out_channels=(32,) * 4, down_block_types=down, up_block_types=up
    )
    pipeline = StableDiffusion3Pipeline(network, scheduler, vae, None, None, None, None, None, None)
    pipeline.set_progress_bar_config(disable=True)
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    model = SD3Model(network, config, None)  # type: ignore[arg-type]
    text, pooled = torch.randn(a.batch, TOKENS, WIDTH), torch.randn(a.batch, POOLED_WIDTH)
    text, pooled = text.to(a.device), pooled.to(a.device)
    noise = torch.stack(
        [torch.randn(16, SIDE, SIDE, generator=image_generator(0, i)) for i in range(a.batch)]
    ).to(a.device)

    def theirs() -> Tensor:
        latents: Tensor = pipeline(
            prompt_embeds=text, pooled_prompt_embeds=pooled, latents=noise.clone(),
            num_inference_steps=a.steps, guidance_scale=1.0, output_type="latent",
        ).images  # fmt: skip
        return latents

    def ours() -> Tensor:
        seen: list[Tensor] = []

        def decode(latents: Tensor) -> Tensor:
            seen.append(latents)
            return latents[:, :3]

        list(
            generate(
                model, model.sampler_config, model.noise_shape, FlowEuler(a.steps), 0,
                range(a.batch), a.batch, a.device, lambda _: {TEXT: text, POOLED: pooled}, decode,
            )
        )  # fmt: skip
        return seen[0]

    def clock() -> float:
        if a.device == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    calls = {"pipeline": theirs, "ours": ours}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(a.repeats + 1):
        for name in list(calls) if repeat % 2 else list(calls)[::-1]:
            began = clock()
            calls[name]()
            if repeat:  # the first round warms up
                seconds[name].append(clock() - began)
    ratios = [one / other for one, other in zip(seconds["ours"], seconds["pipeline"], strict=True)]
    result = {
        "parameters": sum(each.numel() for each in network.parameters()),
        "steps": a.steps,
        "batch": a.batch,
        "repeats": a.repeats,
        "ours_over_pipeline": spread(ratios, 3),
        "seconds": {name: spread(values, 3) for name, values in seconds.items()},
        "largest_difference": float((ours() - theirs()).abs().max()),
        "targets": TARGETS,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name()
        if a.device == "cuda"
        else "cpu, one thread, CPU seconds",
        "machine": platform.machine(),
    }
    record(f"flow_sampling_{a.device}", result)


if __name__ == "__main__":
    main()
