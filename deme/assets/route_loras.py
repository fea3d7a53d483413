"""Use each LoRA of this folder in its own range of timesteps, in a pipeline of diffusers.

    from diffusers import <Pipeline>
    from route_loras import load_loras

    pipeline = <Pipeline>.from_pretrained("<base>")
    images = pipeline("<prompt>", callback_on_step_end=load_loras(pipeline, "<this folder>")).images

It works with text-to-image pipelines. Image-to-image pipelines, which skip the first steps, are not
supported.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def load_loras(pipeline: Any, folder: str) -> Callable[..., dict[str, Any]]:
    """Load the LoRAs of a folder and return the callback for `callback_on_step_end`.

    `folder` has ranges.json, which states the first timestep of the scheduler (`from_timestep`) of
    each LoRA. Call it once for each pipeline. Raises FileNotFoundError without ranges.json.
    """
    experts = json.loads((Path(folder) / "ranges.json").read_text())["experts"]
    for expert in experts:
        pipeline.load_lora_weights(folder, weight_name=expert["file"], adapter_name=expert["name"])
    current_timesteps = None  # the timesteps of the images that are being generated

    def activate_lora_for(timestep: float) -> None:
        # with a tolerance, because both numbers are rounded
        suitable = [each for each in experts if each["from_timestep"] <= timestep + 1e-3]
        pipeline.set_adapters(suitable[-1]["name"])

    def before_network(*_: object) -> None:
        nonlocal current_timesteps
        if pipeline.scheduler.timesteps is not current_timesteps:  # the first step of new images
            current_timesteps = pipeline.scheduler.timesteps
            activate_lora_for(float(current_timesteps[0]))

    def after_step(
        pipeline: Any, step: int, _timestep: object, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        for following in pipeline.scheduler.timesteps[step + 1 : step + 2].tolist():
            activate_lora_for(following)
        return tensors

    network = getattr(pipeline, "transformer", None) or pipeline.unet
    network.register_forward_pre_hook(before_network)
    return after_step
