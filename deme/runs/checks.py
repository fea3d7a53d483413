"""What every configuration must hold, whatever the verb: counts that are counts, switches that are switches."""

from collections.abc import Mapping
from typing import Any

from deme.system.errors import BadConfig

MINIMUM = {
    "num_steps": 1,
    "num_ranges": 1,
    "steps_per_expert": 1,
    "search.num_images": 2,
    "batch_size": 1,
    "accumulate": 1,
    "data.size": 1,
    "num_images": 1,
    "shard_size": 1,
    "seed": 0,
    "expert": 0,
    "sample_seed": 0,
    "balancing.refresh_every": 1,
    "ranges.num_ranges": 1,
    "ranges.num_bins": 1,
    "ranges.num_images": 2,
    "ranges.seed": 0,
    "compute.threads": 1,
    "learning_rate.warmup_steps": 0,
    "metrics.replicates": 2,
    "metrics.size": 1,
    "metrics.loss.num_ranges": 1,
    "metrics.loss.draws": 1,
    "progress.checkpoint_every": 1,
    "progress.log_every": 1,
    "progress.num_workers": 0,
    "progress.processes": 1,
    "metrics.nearest_k": 1,
    "progress.preview.num_images": 1,
    "progress.preview.num_inference_steps": 1,
    "passport.num_images": 16,
    "sampler.num_inference_steps": 1,
}
BOOLEANS = (
    "compute.channels_last",
    "compute.compile",
    "compute.gradient_checkpointing",
    "data.download",
    "data.random_flip",
    "dry_run",
    "keep_projections",
    "metrics.kid",
    "optimizer.fused",
    "overwrite",
    "private",
    "sampler.clip_sample",
    "timesteps.antithetic",
)
MAPPINGS = (
    "cell",
    "metrics.loss",
    "passport",
    "progress",
    "progress.preview",
    "slices",
    "weights_by_name",
)
OPTIONAL = (
    "metrics.size",
    "metrics.loss",
    "weights_by_name",
    "seed",
    "expert",
    "steps_per_expert",
    "compute.threads",
    "data.size",
    "metrics.nearest_k",
    "optimizer.fused",
)


def check_values(config: Mapping[str, Any]) -> None:
    """Raise BadConfig unless groups are groups, and counts and seeds whole numbers that make sense."""
    for key in MAPPINGS:
        value = _value(config, key, ...)
        if (
            value is not ...
            and not isinstance(value, Mapping)
            and not (key in OPTIONAL and value is None)
        ):
            raise BadConfig(
                f"{key} has keys of its own, such as {key}.<name>=<value>; got {value!r}"
            )
    if "suite" in config and (not isinstance(config["suite"], str) or not config["suite"]):
        raise BadConfig(f"suite must be a name, got {config['suite']!r}")
    clip = config.get("gradient_clip")
    if clip is not None and (type(clip) not in (int, float) or not 0 < clip < float("inf")):
        raise BadConfig(f"gradient_clip must be a norm above 0, or null for none; got {clip!r}")
    for key, least in MINIMUM.items():
        value = _value(config, key, ...)
        if value is ... or (key in OPTIONAL and value is None):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise BadConfig(f"{key} must be a whole number, at least {least}; got {value!r}")
    for key in BOOLEANS:
        value = _value(config, key, ...)
        if (
            value is not ...
            and not isinstance(value, bool)
            and not (key in OPTIONAL and value is None)
        ):
            allowed = "true, false or null" if key in OPTIONAL else "true or false"
            raise BadConfig(f"{key} must be {allowed}, got {value!r}")


def check_scale(config: Mapping[str, Any]) -> None:
    """Raise BadConfig unless guidance_scale is a number from 1 on, or null."""
    scale = config["guidance_scale"]
    if scale is not None and (type(scale) not in (int, float) or not 1 <= scale < float("inf")):
        raise BadConfig(
            f"guidance_scale must be a number, 1 (no guidance) or more, or null; got {scale!r}"
        )


def _value(config: Mapping[str, Any], key: str, missing: Any) -> Any:
    node: Any = config
    for part in key.split("."):
        node = node.get(part, missing) if isinstance(node, Mapping) else missing
    return node
