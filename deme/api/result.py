"""The class of finished runs that the functions of `import deme` return."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deme.runs import frozen_config, metrics_of, read_status, seconds_of, weights_folder
from deme.system import digits_for, duration, exists

if TYPE_CHECKING:
    from deme.models.denoiser import DenoisingModel
    from deme.runs import Config


@dataclass(frozen=True, repr=False)
class Result:
    """A finished run and its directory.

    Functions that take a model or an evaluation accept a Result, the path of a run directory, or a
    model folder.
    """

    path: Path

    def __fspath__(self) -> str:
        """Return the run directory, so that a Result can be used as a path."""
        return str(self.path)

    def __repr__(self) -> str:
        """Return the directory, state, duration and main metrics as text."""
        parts = [f"Result({str(self.path)!r}"]
        if exists(self.path / "status.json"):
            status = read_status(self.path)
            parts.append(f"{status['state']} after {duration(status.get('seconds', 0.0))}")
        whole = {name: value for name, value in self.metrics.items() if "/" not in name}
        parts += [f"{name} {value:.{digits_for(value)}f}" for name, value in whole.items()]
        return f"{', '.join(parts)})"

    @property
    def config(self) -> "Config":
        """The complete settings of the run, as in its config.yaml."""
        return frozen_config(self.path)

    @property
    def seconds(self) -> float:
        """The duration of the run in seconds, without interruptions."""
        return seconds_of(self.path)

    @property
    def metrics(self) -> dict[str, float]:
        """The measured values of an evaluation by metric; empty for other runs.

        The parts of a metric are named <metric>/<part>: loss/0 is the loss in timestep range 0.
        """
        return {name: metric["value"] for name, metric in metrics_of(self.path).items()}

    @property
    def weights(self) -> Path:
        """The model folder in diffusers format; of a training its EMA weights, if it has any.

        Raises MissingInput for a run that is not finished, BadConfig for a run without weights.
        """
        return weights_folder(self.path)

    def load(self) -> "DenoisingModel":
        """Return the model; see `deme.load`."""
        from deme.api.actions import load

        return load(self)

    def export(self, out: str | Path, **settings: object) -> Path:
        """Write the model as a plain diffusers folder with a model card, and return the folder.

        `settings`: keys of `deme export`, such as dtype="float16". Raises BadConfig for a folder
        that contains other files.
        """
        from deme.api.calls import call

        return call("export", {"run": self.path, "out": out, **settings})

    def report(self, out: str | Path | None = None) -> Path:
        """Write an HTML page about the run to `out` (default: its report.html); return the path."""
        from deme.commands.report import write_page

        return write_page(str(self.path), None if out is None else str(out))


Place = Result | str | Path  # a run, or a model folder, or hub:<owner>/<name>, or asset:<name>


def place_of(place: Place) -> str:
    """Return the run directory of a Result, or a path or model name as a string."""
    return os.fspath(place)
