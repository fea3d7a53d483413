"""Read a model folder's configs; refuse those of a model that cannot be trained here."""

import inspect
from pathlib import Path

import diffusers

from deme.diffusion import PREDICTION_TYPES
from deme.models.layout import (
    BETAS,
    NOISE,
    SCHEDULER,
    JsonObject,
    read_json_object,
    scheduler_file,
    unet_folder,
)
from deme.system import BadConfig, MissingInput, model_folders

# Samplers of a variance-preserving diffusion with betas; whichever one a folder names, its noise
# schedule means the same.
SCHEDULERS = [
    "DDPM", "DDIM", "PNDM", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep",
    "DEISMultistep", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete",
    "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE", "DDIMParallel", "DDPMParallel",
]  # fmt: skip
LEARNED = ("learned", "learned_range")


def read_configs(path: str, folder: Path) -> tuple[JsonObject, JsonObject]:
    """Return the configs of the UNet and of the scheduler; `path` names the folder in messages.

    Raises MissingInput, BadConfig for another pipeline, architecture, diffusion or prediction type.
    """
    _check_pipeline(path, read_json_object(folder / "model_index.json"))
    unet = read_json_object(unet_folder(folder) / "config.json")
    if not unet:
        inside = [place.name for place in model_folders(folder)]
        raise MissingInput(
            f"{path} is not a diffusers model folder: it needs unet/config.json and "
            "scheduler/scheduler_config.json (or both files at its top)"
            + (f"\nit is a run; type: model.path={path}/weights/{inside[0]}" if inside else "")
        )
    kind, embedding = unet.get("_class_name"), unet.get("time_embedding_type", "positional")
    if kind not in (None, "UNet2DModel"):
        raise BadConfig(
            f"{path} holds a {kind}; allowed: UNet2DModel, UNet2DConditionModel of "
            "Stable Diffusion 1.x and 2.x"
        )
    if embedding != "positional":
        raise BadConfig(
            f"{path} has time_embedding_type={embedding!r}, as score models of other diffusions "
            "do; only time_embedding_type=positional, with timesteps 0 .. T-1, can be trained here"
        )
    check_unet(path, unet, default_channels=3)
    return unet, read_scheduler(path, folder)


def check_unet(path: str, unet: JsonObject, default_channels: int) -> None:
    """Raise BadConfig for a UNet that cannot be trained here, whatever it is conditioned on.

    `default_channels` is what diffusers takes for a number of channels that the config leaves out.
    """
    if unet.get("num_class_embeds") is not None or unet.get("class_embed_type") is not None:
        raise BadConfig(
            f"{path} needs class labels (num_class_embeds={unet.get('num_class_embeds')}, "
            f"class_embed_type={unet.get('class_embed_type')}), with which no model can be trained "
            "here"
        )
    taken, returned = (unet.get(n, default_channels) for n in ("in_channels", "out_channels"))
    if taken != returned:
        raise BadConfig(
            f"{path} has a UNet of {taken} channels in and {returned} out (in_channels, "
            "out_channels), as with a learned variance, inpainting or depth; they must be equal"
        )
    if unet.get("sample_size") is None:
        raise BadConfig(
            f"{path} does not say the size of what it makes\n"
            "set sample_size in the config.json of its UNet, such as 32 (pixels) or 64 (latents)"
        )


def read_scheduler(path: str, folder: Path) -> JsonObject:
    """Return the config of a model folder's scheduler. Raises MissingInput, BadConfig."""
    file = scheduler_file(folder)
    if file.is_file():
        return _schedule(path, read_json_object(file))
    missing = f"{path} has a UNet, but no scheduler config with the noise schedule of its training"
    if (folder.parent / "scheduler" / SCHEDULER).is_file():
        raise MissingInput(f"{missing}\ntype: model.path={folder.parent}")
    raise MissingInput(
        f"{missing}\nput the scheduler_config.json of its pipeline into it, or write one: "
        '{"_class_name": "DDPMScheduler", "beta_schedule": "linear", "prediction_type": "epsilon"}'
    )


def _check_pipeline(path: str, index: JsonObject) -> None:
    others = [
        f"{name} ({part[1]})"
        for name, part in index.items()
        if isinstance(part, list) and part[-1] and name not in ("unet", "scheduler")
    ]
    if others:
        raise BadConfig(
            f"{path} is a {index.get('_class_name', 'pipeline')} with {', '.join(others)}\n"
            "allowed: pixel diffusion with a UNet2DModel and a scheduler, such as a DDPMPipeline; "
            "Stable Diffusion 1.x and 2.x"
        )


def with_defaults(given: JsonObject, kind: str) -> JsonObject:
    """Return a config of diffusers with the defaults of its class for what it leaves unsaid.

    `kind` is the class of a config that names none. A class that diffusers does not have adds
    nothing.
    """
    made = getattr(diffusers, str(given.get("_class_name") or kind), None)
    known = inspect.signature(made).parameters.values() if isinstance(made, type) else ()
    found = {each.name: each.default for each in known if each.default is not each.empty}
    return {n: list(v) if isinstance(v, tuple) else v for n, v in found.items()} | given


def noise_of(scheduler: JsonObject) -> JsonObject:
    """Return what a scheduler's config says about noise and prediction, defaults filled in.

    They are those of its class, which are not the same for all of them.
    """
    complete: JsonObject = {"trained_betas": None, "rescale_betas_zero_snr": False}
    if scheduler.get("_class_name") == "DPMSolverSDEScheduler":
        # hidden where torchsde is missing
        complete |= {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012}
        complete |= {"beta_schedule": "linear", "prediction_type": "epsilon"}
    complete |= with_defaults(scheduler, "DDPMScheduler")
    if scheduler.get("predict_epsilon") is False and not scheduler.get("prediction_type"):
        complete["prediction_type"] = "sample"  # diffusers before 0.9
    return {name: complete[name] for name in (*NOISE, *BETAS) if name in complete}


def _schedule(path: str, scheduler: JsonObject) -> JsonObject:
    """Return a scheduler's config with the defaults of its class. Raises BadConfig."""
    kind = str(scheduler.get("_class_name", "DDPMScheduler"))
    if kind.removesuffix("Scheduler") not in SCHEDULERS:
        raise BadConfig(
            f"{path} has a {kind}, which is not of a variance-preserving diffusion with T betas\n"
            f"allowed: {', '.join(SCHEDULERS)} (each with Scheduler at its end)"
        )
    if scheduler.get("use_flow_sigmas"):
        raise BadConfig(
            f"{path} has a {kind} with use_flow_sigmas: flow matching, which cannot be trained here"
        )
    noise = {name: value for name, value in noise_of(scheduler).items() if name in NOISE}
    scheduler = noise | scheduler | noise
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in PREDICTION_TYPES:
        raise BadConfig(
            f"{path} has a scheduler with prediction_type={prediction!r}; "
            f"allowed: {', '.join(PREDICTION_TYPES)}"
        )
    if scheduler.get("variance_type") in LEARNED:
        raise BadConfig(
            f"{path} has a scheduler with variance_type={scheduler['variance_type']}; "
            "only a fixed variance is allowed"
        )
    betas, steps = scheduler.get("trained_betas"), scheduler.get("num_train_timesteps", 1000)
    if isinstance(betas, list) and len(betas) != steps:
        raise BadConfig(
            f"{path} has a scheduler with {len(betas)} trained_betas for "
            f"num_train_timesteps={steps}"
        )
    return scheduler
