"""What a run costs, in forward passes of one image, from its settings alone (docs/runs.md)."""

from typing import Protocol

from deme.merging.search import Search
from deme.runs.config import instantiate
from deme.runs.settings.base import Option
from deme.runs.settings.commands import EvaluateSettings, TrainSettings
from deme.runs.settings.merging import MergeSettings, SearchSettings

Settings = TrainSettings | SearchSettings | MergeSettings | EvaluateSettings

BACKWARD = 2  # a backward pass takes the arithmetic of two forward passes
STEPS_TAKEN_TWICE = {"PNDM": 1}  # by samplers that ask the network more often than they step


class _Sampling(Protocol):
    """What generating an image depends on."""

    @property
    def sampler(self) -> Option: ...
    @property
    def prompts(self) -> Option | None: ...
    @property
    def guidance_scale(self) -> float | None: ...


def num_forward_passes(settings: Settings, num_experts: int = 0) -> int:
    """Return the cost of a run before it is done; of a search, of `num_experts`, at most."""
    if isinstance(settings, TrainSettings):
        return _of_training(settings)
    if isinstance(settings, SearchSettings):
        return _of_search(settings, num_experts)
    if isinstance(settings, MergeSettings) or settings.source in ("real", "images"):
        return 0
    if not settings.metrics.measures_images:
        return 0  # no images are generated
    return settings.num_images * _per_image(settings)


def _of_training(settings: TrainSettings) -> int:
    num_images = settings.num_steps * settings.accumulate * settings.batch_size
    per_image = 1 + BACKWARD + (settings.method.get("consistency_weight", 0) > 0)  # the teacher
    affinity = settings.ranges.get("num_bins", 0) * settings.ranges.get("num_images", 0)
    return num_images * per_image + affinity * (1 + BACKWARD)


def _of_search(settings: SearchSettings, num_experts: int) -> int:
    search: Search = instantiate(settings.search)
    if settings.objective in (None, "frechet", "kid") and settings.metrics.features:
        per_image = _per_image(settings)
    else:
        loss = settings.metrics.loss
        per_image = loss.num_ranges if loss else 0
    if getattr(search, "needs_gradients", False):
        per_image *= 1 + BACKWARD
    return settings.num_images * per_image * (search.count(num_experts) or 0)


def _per_image(settings: _Sampling) -> int:
    """Return the passes that one generated image takes: guidance asks the network twice."""
    name = settings.sampler["_target_"].rpartition(".")[2]
    num_calls = settings.sampler.get("num_inference_steps", 0) + STEPS_TAKEN_TWICE.get(name, 0)
    guided = settings.prompts and settings.guidance_scale not in (None, 1)
    return int(num_calls) * (2 if guided else 1)
