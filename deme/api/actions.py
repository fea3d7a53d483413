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
    """Return a model as a torch module: model(x_t, t), x_t [B, C, H, W] in -1..1, t [B] integers.

    `place`: a Result, a run directory, a diffusers folder, hub:<owner>/<name> or asset:<name>.
    Raises MissingInput for a place that does not exist, BadConfig for another kind of model,
    WorkFailed for damaged files.

    >>> model = deme.load("asset:digits_base")
    """
    from deme.models.loading import load_folder

    path = place_of(place)
    return load_folder(str(weights_folder(Path(path))) if exists(path) else path)


def finetune(model: Place, data: str | Path, **settings: object) -> Result:
    """Finetune a model on all timesteps with `deme train`, and return the run.

    `data`: a folder of images, or the name of a `data` option. `settings`: any key of `deme train`,
    such as num_steps=2000, batch_size=64, optimizer={"lr": 1e-5}, seed=1, weighting="min_snr",
    compute="gpu". A call with the settings of a finished run returns that run; a call that was
    stopped resumes.

    Raises BadConfig for a key or value that is not allowed, MissingInput for a model or folder that
    does not exist, WorkFailed for a training that fails.

    >>> tuned = deme.finetune("asset:digits_base", "digits", num_steps=100)
    """
    with one_line("finetune"):
        return result("train", _training(model, data, {"method": "finetune", **settings}))


def decouple(
    model: Place, data: str | Path, num_ranges: int = 4, **settings: object
) -> list[Result]:
    """Finetune one expert per timestep range, and return their runs, lowest noise first.

    This is the first half of decouple-then-merge (Ma et al., CVPR 2025, arXiv 2410.06664), by `deme
    train method=deme`: N = `num_ranges` equal ranges, a consistency loss to the base, and timesteps
    of all ranges with probability 0.3. `settings` are those of `finetune` and hold for each expert;
    method={"consistency_weight": 0} removes the consistency loss. Raises as `finetune`.

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
    """Merge experts in parameter space with `deme merge`, and return the run.

    The merged model is the base plus a weighted sum of the task vectors (expert minus base). The
    default weight is 1/N (merge=weighted_sum). `settings`: any key of `deme merge`, such as
    merge="ties" or merge={"weights": [0.1, 0.1, 0.2, 0.5]}. The base is that of the experts unless
    model=... names another.

    Raises BadConfig for experts of different bases and for ranges that do not cover [0, T).

    >>> merged = deme.merge(experts)
    """
    if not experts:
        raise BadConfig("no experts are given\ntype: deme.merge(deme.decouple(...))")
    base = {} if "model" in settings else _base_of(experts[0])
    inputs = {"inputs.experts": [place_of(expert) for expert in experts]}
    return result("merge", {"suite": SUITE, **base, **inputs, **_seed_of(experts), **settings})


def evaluate(model: Place | Sequence[Place], data: str | Path, **settings: object) -> Result:
    """Measure a model on held-out images with `deme evaluate`; the returned run has `.metrics`.

    Several models are the experts of all ranges: each predicts at the timesteps of its own range,
    as before a merge. `settings`: any key of `deme evaluate`, such as metrics="loss",
    num_images=5000, sampler={"num_inference_steps": 50} or sample_seed=1. Raises as `finetune`.

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

    Each argument is an evaluation, or several with different seeds. Evaluations with the same
    sampling seed use the same noise, so their differences are paired (docs/metrics.md). The
    dictionary prints as a table. Raises BadConfig for evaluations that share no seed, or whose
    metrics differ.

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
    """Return a `model` option by name, or the option that loads a folder, run or Hub model."""
    if path in options("model"):
        return {"model": path}
    folder = Path(path)
    return {"model": "diffusers", "model.path": weights_folder(folder) if exists(folder) else path}


def data_option(data: str | Path) -> dict[str, object]:
    """Return a `data` option by its name, or the option that reads a folder of images."""
    if str(data) in options("data"):
        return {"data": str(data)}
    return {"data": "image_folder", "data.path": str(data)}


def _base_of(place: Place) -> dict[str, object]:
    """Return the model option of the base of a run, so that both have the same noise schedule."""
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
    """Return the finetuning seed that all runs share, to label the run that is made from them.

    With this label, evaluations of several seeds can be compared, and a verdict from a single seed
    is marked "(1 seed)".
    """
    paths = [Path(place_of(place)) for place in places]
    seeds = {frozen_config(path).get("seed") if is_run(path) else None for path in paths}
    return {"seed": seeds.pop()} if len(seeds) == 1 and None not in seeds else {}
