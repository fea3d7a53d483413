"""Read a model folder's configs; refuse those that describe a model that cannot be trained here."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers

from deme.diffusion.schedule import PREDICTION_TYPES
from deme.models.layout import NOISE, SCHEDULER, scheduler_file, unet_folder
from deme.system import BadConfig, MissingInput, read_json

# Samplers of a variance-preserving diffusion with betas; whichever one a folder names, its noise
# schedule means the same.
SCHEDULERS = [
    "DDPM", "DDIM", "PNDM", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep",
    "DEISMultistep", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete",
    "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE", "DDIMParallel", "DDPMParallel",
]  # fmt: skip
LEARNED = ("learned", "learned_range")


def read_configs(path: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configs of the UNet and of the scheduler; `path` is the name of the folder in messages.

    Raises MissingInput, BadConfig for another pipeline, architecture, diffusion or prediction type.
    """
    index = (
        read_json(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    )
    _check_pipeline(path, index)
    config = unet_folder(folder) / "config.json"
    if not config.is_file():
        raise MissingInput(
            f"{path} is not a diffusers model folder: it needs unet/config.json and "
            "scheduler/scheduler_config.json (or both files at its top)"
            + _weights_inside(path, folder)
        )
    unet = read_json(config)
    _check_unet(path, unet)
    return unet, read_scheduler(path, folder)


def read_scheduler(path: str, folder: Path) -> dict[str, Any]:
    """Return the config of a model folder's scheduler. Raises MissingInput, BadConfig."""
    file = scheduler_file(folder)
    if file is None:
        whole = (folder.parent / "scheduler" / SCHEDULER).is_file()
        raise MissingInput(
            f"{path} has a UNet, but no scheduler config with the noise schedule of its training\n"
            + (
                f"type: model.path={folder.parent}"
                if whole
                else "put the scheduler_config.json of its pipeline into it, or write one: "
                '{"_class_name": "DDPMScheduler", "beta_schedule": "linear", '
                '"prediction_type": "epsilon"}'
            )
        )
    return _schedule(path, read_json(file))


def _weights_inside(path: str, folder: Path) -> str:
    inside = [p.name for p in sorted((folder / "weights").glob("[!.]*"))]
    return f"\nit is a run; type: model.path={path}/weights/{inside[0]}" if inside else ""


def _check_pipeline(path: str, index: Mapping[str, Any]) -> None:
    parts = {
        name: value[1] for name, value in index.items() if isinstance(value, list) and value[-1]
    }
    others = {name: kind for name, kind in parts.items() if name not in ("unet", "scheduler")}
    if others:
        raise BadConfig(
            f"{path} is a {index.get('_class_name', 'pipeline')} with "
            f"{', '.join(f'{n} ({k})' for n, k in others.items())}\n"
            "allowed: pixel diffusion with a UNet2DModel and a scheduler, such as a DDPMPipeline; "
            "Stable Diffusion 1.x and 2.x"
        )


def _check_unet(path: str, config: Mapping[str, Any]) -> None:
    kind = config.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        raise BadConfig(
            f"{path} holds a {kind}; allowed: UNet2DModel, UNet2DConditionModel of Stable Diffusion "
            "1.x and 2.x"
        )
    if config.get("num_class_embeds") is not None or config.get("class_embed_type") is not None:
        raise BadConfig(
            f"{path} needs class labels (num_class_embeds={config.get('num_class_embeds')}, "
            f"class_embed_type={config.get('class_embed_type')}); only unconditional models can be "
            "trained here"
        )
    channels = config.get("in_channels", 3), config.get("out_channels", 3)
    if channels[0] != channels[1]:
        raise BadConfig(
            f"{path} has in_channels={channels[0]} and out_channels={channels[1]}, as with a learned "
            "variance or another input; they must be equal"
        )
    if config.get("time_embedding_type", "positional") != "positional":
        raise BadConfig(
            f"{path} has time_embedding_type={config['time_embedding_type']!r}, as score models of "
            "other diffusions do; only time_embedding_type=positional, with timesteps 0 .. T-1, can "
            "be trained here"
        )
    if config.get("sample_size") is None:
        raise BadConfig(
            f"{path} does not say the size of its images\n"
            "set sample_size in its config.json, such as 32"
        )


def _defaults(kind: str) -> dict[str, Any]:
    """Return the defaults of a scheduler class, which are not the same for all of them."""
    if kind == "DPMSolverSDEScheduler":  # diffusers shows it only where torchsde is installed
        return {"beta_start": 0.00085, "beta_end": 0.012}
    known = inspect.signature(getattr(diffusers, kind)).parameters
    found = {name: known[name].default for name in NOISE if name in known}
    return {name: value for name, value in found.items() if value is not None}


def _schedule(path: str, config: dict[str, Any]) -> dict[str, Any]:
    kind = config.get("_class_name", "DDPMScheduler")
    if kind.removesuffix("Scheduler") not in SCHEDULERS:
        raise BadConfig(
            f"{path} has a {kind}, which is not of a variance-preserving diffusion with T betas\n"
            f"allowed: {', '.join(SCHEDULERS)} (each with Scheduler at its end)"
        )
    if config.get("use_flow_sigmas"):
        raise BadConfig(
            f"{path} has a {kind} with use_flow_sigmas: flow matching, which cannot be trained here"
        )
    if config.get("predict_epsilon") is False:  # diffusers before 0.9
        config = {**config, "prediction_type": config.get("prediction_type") or "sample"}
    config = {**_defaults(kind), **config}
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTION_TYPES:
        raise BadConfig(
            f"{path} has a scheduler with prediction_type={prediction!r}; "
            f"allowed: {', '.join(PREDICTION_TYPES)}"
        )
    if config.get("variance_type") in LEARNED:
        raise BadConfig(
            f"{path} has a scheduler with variance_type={config['variance_type']}; "
            "only a fixed variance is allowed"
        )
    betas, steps = config.get("trained_betas"), config.get("num_train_timesteps", 1000)
    if betas is not None and len(betas) != steps:
        raise BadConfig(
            f"{path} has a scheduler with {len(betas)} trained_betas for "
            f"num_train_timesteps={steps}"
        )
    return config
