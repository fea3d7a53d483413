"""`deme stats`: the statistics of real images that evaluations are compared to."""

from pathlib import Path
from typing import Any

from deme.runs.run import say
from deme.runs.settings.base import build
from deme.runs.settings.groups import ComputeSettings, MetricsSettings, PathsSettings
from deme.system.errors import BadConfig


def run(config: dict[str, Any]) -> Path:
    """Measure what is not in the cache yet, write the file if asked for, and return the cache or the file."""
    out = None if config["out"] is None else Path(str(config["out"]))
    if out is not None and out.suffix != ".npz":
        raise BadConfig(f"out must name a .npz file, got {config['out']}")

    from deme.builders.compute import Compute
    from deme.builders.data import load_data
    from deme.builders.metrics import load_extractors, load_reference
    from deme.metrics import statistics_file
    from deme.system.paths import cache_folder

    compute = Compute.of(build(ComputeSettings, config["compute"]))
    metrics, paths = (
        build(MetricsSettings, config["metrics"]),
        build(PathsSettings, config["paths"]),
    )
    extractors = load_extractors(metrics, compute.device)
    if not extractors or (out is not None and len(extractors) != 1):
        raise BadConfig(
            f"out={config['out']} takes the statistics of one feature extractor; metrics.features names {len(extractors)}"
            if extractors
            else "deme stats needs a feature extractor; metrics.features is empty\ntype: metrics=digits, inception768, ..."
        )
    data = load_data(config["data"], paths)
    for extractor in extractors:
        reference = load_reference(metrics, data, extractor, cache_folder(paths))
        say(f"{reference.name}: {extractor.name}, weights {extractor.weights[:12]}")
        if out is not None:
            statistics_file.save_npz(out, reference.statistics, extractor, reference.name)
            say(f"wrote {out}")
    return out or cache_folder(paths)
