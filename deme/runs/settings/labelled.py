"""The labels of a run that follow from what was given to make it (deme/runs/labels.py)."""

from collections.abc import Mapping, Sequence

from deme.runs.composed import flat
from deme.runs.inputs import OF, SET
from deme.runs.labels import what_was_set, what_went_in
from deme.runs.overrides import as_value
from deme.runs.settings.base import Config
from deme.runs.settings.commands import RUNS

MAX_LABEL = 250  # characters of all settings


def labelled(
    stage: str, config: Config, overrides: Sequence[str], swept: Sequence[str] = ()
) -> Config:
    """Return a run's config with the overrides that it was made with, and with labels of them.

    `swept` are the keys in which the jobs of its sweep differ, which are told at their defaults,
    too. Other commands have no labels: their config is returned as it is.
    """
    if (
        stage not in RUNS
        or not isinstance(config.get("cell"), Mapping)
        or config.get("stage") != stage
    ):
        return config
    config = {**config, "overrides": [*overrides], "swept": [*swept]}
    values = flat(config)
    texts = what_was_set(values)
    while len(", ".join(texts)) > MAX_LABEL:
        texts.pop()
    found = {OF: what_went_in(values), SET: ", ".join(texts)}
    labels = {name: text for name, text in found.items() if text and name not in config["cell"]}
    return {**config, "cell": {**config["cell"], **labels}}


def with_values(config: Config, values: Mapping[str, int | str]) -> Config:
    """Return a labelled config whose overrides name these values, too: seeds, a model's path."""
    if "overrides" not in config:
        return config
    given = [f"{name}={as_value(value)}" for name, value in values.items()]
    return {**config, "overrides": [*config["overrides"], *given]}
