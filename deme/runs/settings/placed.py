"""The configuration of a run of a suite: where it lies, what it takes, what it is called."""

import re
from collections.abc import Mapping
from pathlib import Path

from deme.runs.settings.base import Config

PLAIN = re.compile(r"(?!(null|true|false|inf|nan)$)[A-Za-z_][\w./-]*", re.I)  # a text to Hydra, too


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
        "overrides": [*config.get("overrides", []), *given, f"paths.runs={as_value(str(runs))}"],
    }


def as_value(text: str) -> str:
    """Return a text as the value of an override, in quotes where Hydra needs them."""
    return text if PLAIN.fullmatch(text) else quoted(text)


def quoted(text: str) -> str:
    """Return a text in quotes, as the value of an override that holds whatever characters."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
