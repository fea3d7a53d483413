"""`deme stats`: compute the statistics of the real images that evaluations are compared with."""

from pathlib import Path

from deme.commands.arguments import check_places, output_file
from deme.runs import StatsSettings, build, check_options
from deme.system import BadConfig, cache_folder, print_result


def run(config: dict[str, object]) -> Path:
    """Measure what is not in the cache, write a file if asked for, and return the cache or file."""
    settings = build(StatsSettings, config)
    out = output_file(settings.out, ".npz") if settings.out is not None else None
    count = len(settings.metrics.features)
    if not count:
        raise BadConfig(
            "deme stats needs a feature extractor; metrics.features is empty\n"
            "type: metrics=own, metrics=digits, ..."
        )
    if out and count != 1:
        raise BadConfig(
            f"out={out} takes the statistics of one feature extractor; metrics.features names "
            f"{count}\ntype: metrics=<option with one feature extractor>"
        )

    check_places(settings.data, *settings.metrics.features.values())

    from deme.builders import Compute, load_data, load_extractors, load_reference
    from deme.metrics import statistics_file

    check_options(settings)
    cache = cache_folder(settings.paths)
    device = Compute.of(settings.compute).device
    data = load_data(settings.data, settings.paths)
    for extractor in load_extractors(settings.metrics, data, cache, device):
        reference = load_reference(settings.metrics, data, extractor, cache)
        print_result(f"{reference.name}: {extractor.name}, weights {extractor.weights[:12]}")
        if out:
            statistics_file.save_npz(out, reference.statistics, extractor, reference.name)
            print_result(f"wrote {out}")
    return out or cache
