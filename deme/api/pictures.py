"""Functions that return pictures: samples of models, and images of a data set."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deme.api.actions import data_option, model_option
from deme.api.calls import as_overrides, running_command
from deme.api.result import Place, Result, place_of
from deme.commands import stage_function
from deme.runs import compose_stage
from deme.system import details, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

Shown = Place | Sequence[Place]  # a model, or the experts of all ranges


def sample(model: Shown | Mapping[str, Shown], num_images: int = 16, **settings: object) -> "Image":
    """Generate images with `deme sample`, and return them as one picture, a grid.

    A list of models is routed: the experts of all ranges, each at its own timesteps. A dictionary
    {label: model, ...} gives one labelled grid per model, all from the same noise. `settings`: any
    key of `deme sample`, such as sampler={"num_inference_steps": 25}, sample_seed=1 or
    out="grid.png", a file to write.

    Raises BadConfig for a key that is not allowed and for models of different image shapes,
    MissingInput for a model that does not exist.

    >>> deme.sample({"before": "asset:digits_base", "merged": merged}).save("grid.png")
    """
    run: object
    if isinstance(model, Mapping):
        run = {label: _names(one) for label, one in model.items()}
    else:
        run = _names(model)
    with tempfile.TemporaryDirectory(prefix="deme-") as folder:
        words = as_overrides(
            {"num_images": num_images, "out": Path(folder, "grid.png"), **settings}
        )
        with running_command(["sample", *words]), one_line("sample"), details():
            config = compose_stage("sample", words, still_open=("run",))
            return _opened(stage_function("sample")({**config, "run": run}))


def doctor(model: Place, data: str | Path, **settings: object) -> "Image":
    """Print what a model and a data set are and whether they fit, as `deme doctor` does.

    Returns a grid of training images as the model sees them. It is also written to doctor.png, or
    to the file out="<file>.png" of the `settings`. Raises BadConfig if the weights contradict their
    scheduler_config.json, MissingInput for a model or folder that does not exist.

    >>> deme.doctor("asset:digits_base", "digits")
    """
    words = as_overrides({**model_option(place_of(model)), **data_option(data), **settings})
    with running_command(["doctor", *words]):
        return _opened(stage_function("doctor")(compose_stage("doctor", words)))


def _names(shown: Shown) -> str | list[str]:
    if isinstance(shown, (Result, str, Path)):
        return place_of(shown)
    return [place_of(place) for place in shown]


def _opened(file: Path) -> "Image":
    from deme.report.figures import picture

    return picture(file)
