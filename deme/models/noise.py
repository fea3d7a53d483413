"""The scheduler of a model folder: the noise that a model was trained with, and what it predicts.

Whichever sampler a folder names, its noise schedule means the same.
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import diffusers
from diffusers import DDPMScheduler

from deme.diffusion import PREDICTION_TYPES, FlowSchedule, NoiseSchedule
from deme.models.layout import (
    BETAS,
    NOISE,
    SCHEDULER,
    JsonObject,
    is_flow,
    read_json_object,
    scheduler_file,
)
from deme.system import BadConfig, MissingInput

# of a variance-preserving diffusion with betas; some of them also sample flow matching
SCHEDULERS = [
    "DDPM", "DDIM", "PNDM", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep",
    "DEISMultistep", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete",
    "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE", "DDIMParallel", "DDPMParallel",
]  # fmt: skip
# of flow matching: what this package has no counterpart of
UNSUPPORTED = ("invert_sigmas", "shift_terminal", "stochastic_sampling")


def read_scheduler(path: str, folder: Path) -> JsonObject:
    """Return the config of a model folder's scheduler. Raises MissingInput, BadConfig."""
    file = scheduler_file(folder)
    if file.is_file():
        return _checked(path, read_json_object(file))
    missing = (
        f"{path} has a network, but no scheduler config with the noise schedule of its training"
    )
    if (folder.parent / "scheduler" / SCHEDULER).is_file():
        raise MissingInput(f"{missing}\ntype: model.path={folder.parent}")
    raise MissingInput(
        f"{missing}\nput the scheduler_config.json of its pipeline into it, or write one: "
        '{"_class_name": "DDPMScheduler", "beta_schedule": "linear", "prediction_type": "epsilon"}'
    )


def scheduler_config_of(arguments: Mapping[str, object]) -> JsonObject:
    """Return the config of a scheduler of diffusers: DDPMScheduler, or what `_class_name` names."""
    kind = str(arguments.get("_class_name", "DDPMScheduler"))
    if not hasattr(diffusers, kind):
        raise ValueError(f"diffusers {diffusers.__version__} has no {kind}")
    given = {name: value for name, value in arguments.items() if name != "_class_name"}
    made = getattr(diffusers, kind)(**given)
    return dict(json.loads(made.to_json_string()))


def schedule_of(scheduler: JsonObject) -> tuple[NoiseSchedule, str]:
    """Return the noise schedule that a scheduler's config describes, and the prediction type.

    Of flow matching it is shifted by the config's static shift, and not with dynamic shifting,
    which is for sampling.
    """
    noise = noise_of(scheduler)
    kind = str(noise["prediction_type"])
    if is_flow(scheduler):
        total, shift = cast(int, noise["num_train_timesteps"]), cast(float, noise["shift"])
        return FlowSchedule(total, shift), kind
    alpha_bar = DDPMScheduler.from_config(scheduler).alphas_cumprod
    return NoiseSchedule.variance_preserving(alpha_bar), kind


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
    if is_flow(scheduler):
        shift = complete.get("shift", complete.get("flow_shift", 1.0))
        return {
            "num_train_timesteps": complete["num_train_timesteps"],
            "shift": 1.0 if complete.get("use_dynamic_shifting") else shift,
            "prediction_type": "flow_prediction",
        }
    if scheduler.get("predict_epsilon") is False and not scheduler.get("prediction_type"):
        complete["prediction_type"] = "sample"  # diffusers before 0.9
    return {name: complete[name] for name in (*NOISE, *BETAS) if name in complete}


def _checked(path: str, scheduler: JsonObject) -> JsonObject:
    """Return a scheduler's config with the defaults of its class. Raises BadConfig."""
    kind = str(scheduler.get("_class_name", "DDPMScheduler"))
    if is_flow(scheduler):
        if strange := [name for name in UNSUPPORTED if scheduler.get(name)]:
            raise BadConfig(
                f"{path} has a {kind} with {', '.join(strange)}, which training does not support"
            )
        return scheduler
    if kind.removesuffix("Scheduler") not in SCHEDULERS:
        raise BadConfig(
            f"{path} has a {kind}; only variance-preserving schedules with T betas and flow "
            f"matching are supported\nallowed: {', '.join(SCHEDULERS)}, FlowMatchEulerDiscrete,"
            " FlowMatchHeunDiscrete (each with Scheduler at its end); and any with "
            "use_flow_sigmas=true"
        )
    noise = {name: value for name, value in noise_of(scheduler).items() if name in NOISE}
    scheduler = noise | scheduler | noise
    prediction = scheduler.get("prediction_type", "epsilon")
    allowed = [each for each in PREDICTION_TYPES if each != "flow_prediction"]
    if prediction not in allowed:
        raise BadConfig(
            f"{path} has a scheduler with prediction_type={prediction!r}; "
            f"allowed: {', '.join(allowed)}"
        )
    betas, steps = scheduler.get("trained_betas"), scheduler.get("num_train_timesteps", 1000)
    if isinstance(betas, list) and len(betas) != steps:
        raise BadConfig(
            f"{path} has a scheduler with {len(betas)} trained_betas for "
            f"num_train_timesteps={steps}"
        )
    return scheduler
