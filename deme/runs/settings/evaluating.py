"""The settings of deme evaluate."""

from typing import Annotated, Literal

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from deme.runs.settings.base import STRICT, Count, Seed, refuse
from deme.runs.settings.groups import (
    Data,
    FromModelSettings,
    FromRunsSettings,
    MetricsSettings,
    SamplingSettings,
)
from deme.runs.settings.marks import LeftOutAt

MAX_SHARDS = 1_000_000  # of the images of an evaluation


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateSettings(FromModelSettings, FromRunsSettings, SamplingSettings):
    """deme evaluate."""

    stage: Literal["evaluate"]
    source: Literal["weights", "experts", "images", "real"]
    num_images: Count
    shard_size: Count
    sample_seed: Seed
    save_images: Literal["png", "zip"] | None
    data: Data
    metrics: MetricsSettings
    held_out_part: Annotated[Literal["validation", "test"] | None, LeftOutAt(None)] = None

    @property
    def needs_images(self) -> bool:
        """Whether images are generated or read: to be measured, or to be saved."""
        return self.metrics.measures_images or self.save_images is not None

    def without_effect(self) -> list[str]:
        """Return the typed settings of generated images if no images are generated."""
        return [] if self.needs_images else self.given("num_images", "shard_size")

    def num_forward_passes(self, num_experts: int = 0) -> int:  # noqa: ARG002
        """Return the cost of the images that are generated to be measured."""
        generated = self.source in ("weights", "experts") and self.metrics.measures_images
        return self.num_images * self.num_forward_passes_per_image if generated else 0

    @model_validator(mode="after")
    def _source(self) -> "EvaluateSettings":
        """Refuse a source without its inputs, without metrics, or with too few images."""
        source, metrics = self.source, self.metrics
        refuse(
            self.num_images > MAX_SHARDS * self.shard_size,
            f"num_images={self.num_images} in shards of shard_size={self.shard_size} are more than "
            f"{MAX_SHARDS:,} shards\ntype: a larger shard_size=<n>",
        )
        refuse(
            metrics.loss is None and not metrics.measures_images,
            "nothing is measured: metrics has no loss, no features and no scores\n"
            "type: metrics=<option>",
        )
        for name, example in (("experts", "[<run>,...]"), ("images", "<folder>")):
            refuse(
                (source == name) != bool(self.inputs.get(name)),
                f"source={name} and inputs.{name}={example} need each other",
            )
        refuse(
            self.inputs.get("weights") and source != "weights",
            f"source={source} does not use inputs.weights\ntype: source=weights, or leave it out",
        )
        refuse(
            source == "real" and self.data is None,
            "source=real draws images from the data set, and data=none\ntype: data=<option>",
        )
        refuse(
            source in ("real", "images") and not metrics.features,
            f"source={source} compares images and needs a feature extractor; "
            "metrics.features is empty\ntype: metrics=<option>",
        )
        least = (metrics.nearest_k or 0) + 2
        refuse(
            metrics.features and self.num_images < least,
            f"these metrics need at least {least} images, got num_images={self.num_images}",
        )
        return self
