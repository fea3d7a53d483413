"""How often a run saves, logs and validates: keys of the group `progress`."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from deme.runs.settings.base import (
    PROCESSES,
    STRICT,
    Count,
    Guidance,
    Processes,
    Seed,
    Shown,
    Switch,
    Time,
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PreviewSettings:
    """The grids of samples during and at the end of training."""

    num_images: Shown
    num_inference_steps: Count
    guidance_scale: Guidance
    seed: Seed


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ValidateSettings:
    """Validation during training: the loss of held-out images, and a grid of samples.

    Runs of earlier versions have none of these keys.
    """

    every: Count | None = None
    minutes: Time | None = None
    num_images: Shown = 256
    preview: Switch = True

    @property
    def is_on(self) -> bool:
        """Whether the model is validated during training."""
        return self.every is not None or self.minutes is not None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ProgressSettings:
    """How often to save, log and validate, and how many processes help."""

    checkpoint_every: Count
    checkpoint_minutes: Time | None = None
    log_every: Count
    num_workers: Annotated[int, Field(ge=0, le=PROCESSES, strict=True)]
    processes: Processes
    preview: PreviewSettings
    validate: ValidateSettings = ValidateSettings()
    keep_checkpoint: Switch = False
