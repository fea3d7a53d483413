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
    noisiest = experts[-1]["name"]

    def switch(
        pipeline: Any, step: int, _timestep: object, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        name = noisiest  # after the last step: for the next images
        for following in pipeline.scheduler.timesteps[step + 1 : step + 2].tolist():
            met = [e for e in experts if e["from_timestep"] <= following + 1e-3]  # both are rounded
            name = met[-1]["name"]
        pipeline.set_adapters(name)
        return tensors

    pipeline.set_adapters(noisiest)
    return switch
