"""Add the labels of a run that follow from its overrides (deme/runs/labels.py) to its config."""

from collections.abc import Mapping, Sequence

from deme.runs.composed import flat
from deme.runs.inputs import OF, SET
from deme.runs.labels import changed_settings, inputs_text
from deme.runs.overrides import as_value
from deme.runs.settings.base import Config
from deme.runs.settings.commands import RUNS

MAX_LABEL = 250  # characters of all settings


def labelled(
    stage: str, config: Config, overrides: Sequence[str], swept: Sequence[str] = ()
) -> Config:
    """Return a run's config with the overrides that it was made with, and with labels of them.

    `swept`: the keys in which the jobs of a sweep differ; they are part of the labels even at their
    defaults. Other commands have no labels, and their config is returned unchanged.
    """
    if (
        stage not in RUNS
        or not isinstance(config.get("cell"), Mapping)
        or config.get("stage") != stage
    ):
        return config
    config = {**config, "overrides": [*overrides], "swept": [*swept]}
    values = flat(config)
    texts = changed_settings(values)
    while len(", ".join(texts)) > MAX_LABEL:
        texts.pop()
    found = {OF: inputs_text(values), SET: ", ".join(texts)}
    labels = {name: text for name, text in found.items() if text and name not in config["cell"]}
    return {**config, "cell": {**config["cell"], **labels}}


def with_values(config: Config, values: Mapping[str, int | str]) -> Config:
    """Return a labelled config with more values recorded as overrides, such as a seed."""
    if "overrides" not in config:
        return config
    given = [f"{name}={as_value(value)}" for name, value in values.items()]
    return {**config, "overrides": [*config["overrides"], *given]}
