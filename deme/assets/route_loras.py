"""Use each LoRA of this folder in its own range of timesteps, in a pipeline of diffusers.

    from diffusers import <Pipeline>
    from route_loras import load_loras

    pipeline = <Pipeline>.from_pretrained("<base>")
    images = pipeline("<prompt>", callback_on_step_end=load_loras(pipeline, "<this folder>")).images

It is for text-to-image pipelines, which go through all steps of their scheduler.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def load_loras(pipeline: Any, folder: str) -> Callable[..., dict[str, Any]]:
    """Load the LoRAs of a folder; return what the pipeline calls at the end of each step.

    `ranges.json` says for which of the scheduler's timesteps a LoRA is meant.
    """
    experts = json.loads((Path(folder) / "ranges.json").read_text())["experts"]
    for expert in experts:
        pipeline.load_lora_weights(folder, weight_name=expert["file"], adapter_name=expert["name"])
    begun = None  # the timesteps of the images that are being generated

    def use_lora_of(timestep: float) -> None:
        met = [each for each in experts if each["from_timestep"] <= timestep + 1e-3]  # both rounded
        pipeline.set_adapters(met[-1]["name"])

    def before_network(*_: object) -> None:
        nonlocal begun
        if pipeline.scheduler.timesteps is not begun:  # the first step of new images
            begun = pipeline.scheduler.timesteps
            use_lora_of(float(begun[0]))

    def after_step(
        pipeline: Any, step: int, _timestep: object, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        for following in pipeline.scheduler.timesteps[step + 1 : step + 2].tolist():
            use_lora_of(following)
        return tensors

    network = getattr(pipeline, "transformer", None) or pipeline.unet
    network.register_forward_pre_hook(before_network)
    return after_step
