"""What is looked at: samples of models, and whether a model fits images."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deme.api.actions import data_option, model_option
from deme.api.calls import command, words_of
from deme.api.result import Place, Result, place_of
from deme.commands import stage_function
from deme.runs import compose_stage
from deme.system import details, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

Shown = Place | Sequence[Place]  # a model, or the experts of all ranges


def sample(model: Shown | Mapping[str, Shown], num_images: int = 16, **settings: object) -> "Image":
    """Generate images by `deme sample` and return them as one picture, a grid.

    Several models are the experts of all ranges, routed by timestep. {label: model, ...} draws a
    grid for each, all from the same noise, under its label. `settings`: any key of `deme sample`,
    such as sampler={"num_inference_steps": 25}, sample_seed=1 or out="grid.png", a file to write.

    Raises BadConfig (a key that is not allowed, models of different shapes), MissingInput.

    >>> deme.sample({"before": "asset:digits_base", "merged": merged}).save("grid.png")
    """
    run: object
    if isinstance(model, Mapping):
        run = {label: _names(one) for label, one in model.items()}
    else:
        run = _names(model)
    with tempfile.TemporaryDirectory(prefix="deme-") as folder:
        words = words_of({"num_images": num_images, "out": Path(folder, "grid.png"), **settings})
        with command(["sample", *words]), one_line("sample"), details():
            config = compose_stage("sample", words, still_open=("run",))
            return _opened(stage_function("sample")({**config, "run": run}))


def doctor(model: Place, data: str | Path, **settings: object) -> "Image":
    """Print what a model and a data set are and whether they fit, by `deme doctor`.

    Returns a picture of some training images, as the model would see them; it is written to
    doctor.png unless out="<file>.png" is among the `settings`. Raises BadConfig if the weights
    contradict their scheduler_config.json, MissingInput.

    >>> deme.doctor("asset:digits_base", "digits")
    """
    words = words_of({**model_option(place_of(model)), **data_option(data), **settings})
    with command(["doctor", *words]):
        return _opened(stage_function("doctor")(compose_stage("doctor", words)))


def _names(shown: Shown) -> str | list[str]:
    if isinstance(shown, (Result, str, Path)):
        return place_of(shown)
    return [place_of(place) for place in shown]


def _opened(file: Path) -> "Image":
    from deme.report.figures import picture

    return picture(file)
