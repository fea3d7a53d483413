"""A finished run, as the functions of `import deme` return it."""

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

    Wherever a function takes a model or an evaluation, it takes a Result, its directory as a path,
    or a model folder.
    """

    path: Path

    def __fspath__(self) -> str:
        """Return the directory as a text: a Result is a path where one is taken."""
        return str(self.path)

    def __repr__(self) -> str:
        """Return where the run is, its state and time, and the metrics without their parts."""
        parts = [f"Result({str(self.path)!r}"]
        if exists(self.path / "status.json"):
            status = read_status(self.path)
            parts.append(f"{status['state']} after {duration(status.get('seconds', 0.0))}")
        whole = {name: value for name, value in self.metrics.items() if "/" not in name}
        parts += [f"{name} {value:.{digits_for(value)}f}" for name, value in whole.items()]
        return f"{', '.join(parts)})"

    @property
    def config(self) -> "Config":
        """The complete settings of the run, as they are in its config.yaml."""
        return frozen_config(self.path)

    @property
    def seconds(self) -> float:
        """How long the run took, without the time that it was stopped."""
        return seconds_of(self.path)

    @property
    def metrics(self) -> dict[str, float]:
        """The values that an evaluation measured, by metric; empty for a run of another kind.

        A part is called <metric>/<part>, such as the loss in range 0, loss/0.
        """
        return {name: metric["value"] for name, metric in metrics_of(self.path).items()}

    @property
    def weights(self) -> Path:
        """The model as a diffusers folder: the average (EMA) of a training, if it has one.

        Raises MissingInput for a run that is not finished, BadConfig for one without weights.
        """
        return weights_folder(self.path)

    def load(self) -> "DenoisingModel":
        """Return the model; see `deme.load`."""
        from deme.api.actions import load

        return load(self)

    def export(self, out: str | Path, **settings: object) -> Path:
        """Write the model as a plain diffusers folder with a model card, and return the folder.

        `settings`: keys of `deme export`, such as dtype="float16". Raises BadConfig for a folder
        that holds other files.
        """
        from deme.api.calls import call

        return call("export", {"run": self.path, "out": out, **settings})

    def report(self, out: str | Path | None = None) -> Path:
        """Write a page of HTML about the run, report.html in its directory, and return its path."""
        from deme.commands.report import write_page

        return write_page(str(self.path), None if out is None else str(out))


Place = Result | str | Path  # a run, or a model folder, or hub:<owner>/<name>, or asset:<name>


def place_of(place: Place) -> str:
    """Return the path of a result, or what names a model."""
    return os.fspath(place)
