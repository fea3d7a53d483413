"""The configuration of a run of a suite: where it lies, what it takes, what it is called."""

from collections.abc import Mapping
from pathlib import Path

from deme.runs.overrides import as_value
from deme.runs.settings.base import Config


def placed(
    config: Config, runs: Path, inputs: Mapping[str, list[str]], labels: Mapping[str, str | int]
) -> Config:
    """Return a config with this folder of runs, these inputs and further labels in its cell.

    Of its own inputs paths are kept; what would look for runs by their cells is null.
    """
    given = [f"+cell.{name}={value}" for name, value in labels.items()]
    own = {
        name: value if isinstance(value, (str, list)) else None
        for name, value in config["inputs"].items()
    }
    return {
        **config,
        "cell": {**config["cell"], **labels},
        "inputs": {**own, **inputs},
        "paths": {**config["paths"], "runs": str(runs)},
        "overrides": [*config.get("overrides", []), *given, f"paths.runs={as_value(runs)}"],
    }
