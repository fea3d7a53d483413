"""The settings of a training that say which networks teach, and what its random numbers are."""

from typing import Annotated

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from deme.runs.settings.base import (
    STRICT,
    Option,
    OptionalOption,
    Seed,
    Whole,
    refuse,
)
from deme.runs.settings.groups import RunSettings
from deme.runs.settings.marks import ChangesNoResult, LeftOutAt
from deme.system import shown

TEACHERS = ("base", "ema")  # of the consistency loss, if not inputs.teacher


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TaughtSettings(RunSettings):
    """The method of a training, its teachers and its seeds."""

    seed: Seed
    copy: Annotated[Whole | None, LeftOutAt(None)] = None
    expert: Whole | None
    ema: OptionalOption
    method: Annotated[Option, LeftOutAt(teacher="base"), ChangesNoResult("resident")]

    @property
    def random_seed(self) -> int | str:
        """What the order of images, noise, timesteps and dropout are functions of."""
        return self.seed if self.copy is None else f"{self.seed}/copy/{self.copy}"

    @property
    def has_consistency(self) -> bool:
        """Whether the loss has a distance to one teacher, at any timestep (paper eq. 5)."""
        weight = self.method.get("consistency_weight")
        return any(weight) if isinstance(weight, list) else bool(weight)

    @property
    def teacher_is_average(self) -> bool:
        """Whether the teacher is the running average of the weights that are trained."""
        return self.has_consistency and self.method.get("teacher") == "ema"

    @property
    def has_teacher(self) -> bool:
        """Whether the loss compares to networks that are not trained: each image sees one."""
        return self.has_consistency or bool(self.inputs.get("experts"))

    @model_validator(mode="after")
    def _teachers(self) -> "TaughtSettings":
        """Refuse a teacher that there is not, and teachers that the loss does not use."""
        teacher, given = self.method.get("teacher", "base"), self.inputs.get("teacher")
        refuse(
            teacher not in TEACHERS,
            f"method.teacher must be {' or '.join(TEACHERS)}; got {shown(teacher)}\n"
            "for another model, type: inputs.teacher=<run or model folder>",
        )
        refuse(
            given and teacher != "base",
            f"inputs.teacher={shown(given)} and method.teacher={teacher} are two teachers\n"
            "type: one of them",
        )
        refuse(
            given and not self.has_consistency,
            f"inputs.teacher={shown(given)} is not used: there is no consistency loss\n"
            "type: method=deme method.consistency_weight=1, or leave it out",
        )
        refuse(
            self.teacher_is_average and self.ema is None,
            "method.teacher=ema is the running average of the weights, and ema=none keeps none\n"
            "type: ema=warmup, or method.teacher=base",
        )
        refuse(
            self.inputs.get("experts") and self.expert is not None,
            f"expert={self.expert} trains one range, and the experts of inputs.experts predict at "
            "all timesteps\ntype: expert=null",
        )
        return self
