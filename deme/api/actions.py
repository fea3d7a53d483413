"""The commands as functions: finetune, decouple, merge, evaluate and compare."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deme.api.calls import result
from deme.api.result import Place, Result, place_of
from deme.report.statistics import Difference
from deme.runs import frozen_config, is_run, options, weights_folder
from deme.system import BadConfig, exists, one_line

if TYPE_CHECKING:
    from deme.models.denoiser import DenoisingModel

SUITE = "python"  # the folder of the runs below runs/


def load(place: Place) -> "DenoisingModel":
    """Return a model as a torch module: model(x_t, t), x_t of [B, C, H, W] in [-1, 1], t of [B].

    `place`: a Result, a run directory, a diffusers folder, hub:<owner>/<name> or asset:<name>.
    Raises MissingInput, BadConfig (another kind of model), WorkFailed (damaged files).

    >>> model = deme.load("asset:digits_base")
    """
    from deme.models.loading import load_folder

    path = place_of(place)
    return load_folder(str(weights_folder(Path(path))) if exists(path) else path)


def finetune(model: Place, data: str | Path, **settings: object) -> Result:
    """Finetune a model on all timesteps, by `deme train`, and return the run.

    `data`: a folder of images, or a `data` option. `settings`: any key of `deme train`, such as
    num_steps=2000, batch_size=64, optimizer={"lr": 1e-5}, seed=1, weighting="min_snr",
    compute="gpu". A call of the same settings returns the same run at once; a stopped one goes on.

    Raises BadConfig (a key or value that is not allowed), MissingInput (no such model or folder),
    WorkFailed.

    >>> tuned = deme.finetune("asset:digits_base", "digits", num_steps=100)
    """
    with one_line("finetune"):
        return result("train", _training(model, data, {"method": "finetune", **settings}))


def decouple(
    model: Place, data: str | Path, num_ranges: int = 4, **settings: object
) -> list[Result]:
    """Finetune one expert for each range of timesteps, and return their runs, least noise first.

    Decouple-then-merge's first half (Ma et al., 2024): N = `num_ranges` equal ranges, a consistency
    loss to the base, and timesteps of all ranges with probability 0.3 (`deme train
    method=deme`). `settings` as of `finetune`, for each expert; method={"consistency_weight": 0}
    leaves the loss out.

    >>> experts = deme.decouple("asset:digits_base", "digits", num_ranges=2, num_steps=100)
    """
    if num_ranges < 2:
        raise BadConfig(f"num_ranges={num_ranges}: at least 2 are needed to decouple")
    ranges = {"ranges": {"num_ranges": num_ranges}}
    shared = _training(model, data, {**ranges, **settings}) | {"method": "deme"}
    nested = settings.get("method")
    if isinstance(nested, dict):
        shared |= {f"method.{key}": value for key, value in nested.items()}
    elif nested is not None:
        raise BadConfig(f"decouple trains with method=deme, got method={nested}")
    with one_line("decouple"):
        return [result("train", {**shared, "expert": expert}) for expert in range(num_ranges)]


def merge(experts: Sequence[Place], **settings: object) -> Result:
    """Merge experts in parameter space, by `deme merge`, and return the run.

    The task vectors, expert minus base, are added to the base with a weight each; the default is
    1/N (`deme merge merge=weighted_sum`). `settings`: any key of `deme merge`, such as
    merge="ties" or merge={"weights": [0.1, 0.1, 0.2, 0.5]}. The base is that of the experts unless
    model=... names another.

    Raises BadConfig for experts of different bases or of ranges that do not cover [0, T).

    >>> merged = deme.merge(experts)
    """
    if not experts:
        raise BadConfig("no experts are given\ntype: deme.merge(deme.decouple(...))")
    base = {} if "model" in settings else _base_of(experts[0])
    inputs = {"inputs.experts": [place_of(expert) for expert in experts]}
    return result("merge", {"suite": SUITE, **base, **inputs, **_seed_of(experts), **settings})


def evaluate(model: Place | Sequence[Place], data: str | Path, **settings: object) -> Result:
    """Measure a model on held-out images, by `deme evaluate`, and return the run: `.metrics`.

    Of several models, the experts of all ranges, each answers at the timesteps of its range, as
    before a merge. `settings`: any key of `deme evaluate`, such as metrics="loss",
    num_images=5000, sampler={"num_inference_steps": 50} or sample_seed=1.

    >>> before = deme.evaluate("asset:digits_base", "digits", num_images=500)
    >>> before.metrics["fd_digits"]
    """
    places = [model] if isinstance(model, (Result, str, Path)) else list(model)
    if not places:
        raise BadConfig("no model is given")
    words = [place_of(place) for place in places]
    what: dict[str, object] = {}
    if len(words) > 1:
        what = {"source": "experts", "inputs.experts": words}
    elif is_run(Path(words[0])):
        what = {"inputs.weights": words[0]}
    metrics = {} if str(data) in options("data") else {"metrics": "loss"}
    made = {**_base_of(places[0]), **_seed_of(places), **what}
    return result("evaluate", {"suite": SUITE, **data_option(data), **metrics, **made, **settings})


def compare(one: Place | Sequence[Place], other: Place | Sequence[Place]) -> dict[str, Difference]:
    """Return the paired difference of each metric, first minus second, with its 95% interval.

    Each is an evaluation, or several of different seeds. Evaluations of equal seeds see the same
    noise, so their differences are paired (docs/metrics.md). Raises BadConfig for evaluations that
    share no seed, or whose metrics are not the same. Printed, the dictionary is a table.

    >>> deme.compare(after, before)["fd_digits"].verdict
    """
    from deme.commands.compare import differences

    first, second = (
        [place_of(each)] if isinstance(each, (Result, str, Path)) else [*map(place_of, each)]
        for each in (one, other)
    )
    return differences(first, second)


def _training(model: Place, data: str | Path, settings: dict[str, object]) -> dict[str, object]:
    given = {key: value for key, value in settings.items() if key != "method"}
    method = {"method": settings["method"]} if isinstance(settings.get("method"), str) else {}
    return {"suite": SUITE, **model_option(place_of(model)), **data_option(data), **method, **given}


def model_option(path: str) -> dict[str, object]:
    """Return a model as an option, or as the folder that a path, a run or the Hub has."""
    if path in options("model"):
        return {"model": path}
    folder = Path(path)
    return {"model": "diffusers", "model.path": weights_folder(folder) if exists(folder) else path}


def data_option(data: str | Path) -> dict[str, object]:
    """Return data as an option, or as the folder of images that a path is."""
    if str(data) in options("data"):
        return {"data": str(data)}
    return {"data": "image_folder", "data.path": str(data)}


def _base_of(place: Place) -> dict[str, object]:
    """Return the model option of a run's base, so that the noise schedule is the same."""
    path = Path(place_of(place))
    if not is_run(path):
        return model_option(str(place_of(place)))
    option = frozen_config(path).get("model")
    if not isinstance(option, dict) or "path" not in option:
        raise BadConfig(
            f"{path} has no base: it was not trained from a model\ntype: model=<folder>"
        )
    given = {f"model.{key}": option[key] for key in ("path", "ema") if key in option}
    return {"model": "diffusers", **given}


def _seed_of(places: Sequence[Place]) -> dict[str, object]:
    """Return the finetuning seed that runs have in common, for the label of what is made of them.

    With it, evaluations of several seeds can be compared, and a verdict says "(1 seed)" of one.
    """
    paths = [Path(place_of(place)) for place in places]
    seeds = {frozen_config(path).get("seed") if is_run(path) else None for path in paths}
    return {"seed": seeds.pop()} if len(seeds) == 1 and None not in seeds else {}
