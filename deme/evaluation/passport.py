"""The passport of a checkpoint: what its config states, and what its weights fit on given images.

It also says whether the weights are raw or averaged (EMA), where that is known.
"""

import math
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
from annotated_types import Len
from typing_extensions import TypedDict

from deme import __version__
from deme.builders import encode_images
from deme.data import ImageData, chosen_images, eval_sample
from deme.models.denoiser import DenoisingModel
from deme.models.layout import EMA
from deme.models.probe import VALUE_RANGES, Fit, assess_fits, known_schedules, probe
from deme.runs import (
    DoctorSettings,
    EvaluateSettings,
    SearchSettings,
    TrainSettings,
    base_hash,
    data_hash,
    takes_ema,
)
from deme.system import (
    EMA_WEIGHTS,
    HUB,
    RAW_WEIGHTS,
    BadConfig,
    JsonObject,
    NotFinite,
    cache_folder,
    files,
    locate,
    logger,
    model_folders,
    read_about,
    read_cached,
)

# models of the Hub (docs/method.md#starting-checkpoints); `deme prepare` drops the owner
KNOWN: dict[str, Literal["ema", "raw"]] = {
    "google/ddpm-cifar10-32": "raw",  # FID 12.4; its average has 4.5
    "google/ddpm-church-256": "raw",
    "google/ddpm-bedroom-256": "raw",
    "CompVis/stable-diffusion-v1-4": "ema",
}


Verdict = Literal["fits", "contradicted", "unclear"]


class Hypothesis(TypedDict):
    """What weights may have been trained for, and how much of the images that leaves."""

    prediction_type: str
    schedule: str
    value_range: str
    unexplained: float


class Probed(TypedDict):
    """What is kept of a passport: all that follows from the weights and the images."""

    verdict: Verdict
    stated: Hypothesis
    fits: Annotated[list[Hypothesis], Len(1)]
    num_images: int
    torch: str


BATCH = 64  # noisy images that are denoised at once


def load_passport(
    settings: TrainSettings | EvaluateSettings | SearchSettings | DoctorSettings,
    model: DenoisingModel,
    data: ImageData,
    device: str,
    num_images: int,
    batch_size: int = BATCH,
) -> JsonObject:
    """Return the passport of a command's pretrained `model` on `num_images` images of its `data`.

    That is passport.json of a training run: the `verdict` (fits, contradicted or unclear), the
    hypothesis that is `stated`, and `fits`, all hypotheses from the best on, each with the share
    of the images' variance that it leaves `unexplained`; `weights` (ema, raw or unknown) and
    `weights_because`; `average`, where that of raw weights is, if it is known. It is measured once
    per model and data set, and kept in the cache. Raises NotFinite for a model whose predictions
    are NaN or infinite.
    """
    option, cache = settings.model or {}, cache_folder(settings.paths)
    path = str(option["path"])
    parts = [__version__, base_hash(option, path), data_hash(settings.data or {}), num_images]
    parts.append(model.image_shape)
    place = cache / "passports" / f"{files.sha256_text(repr(parts))[:32]}.json"
    measured = read_cached(place, Probed)
    if measured is None:
        measured = _measured(path, num_images, model, data, device, cache, batch_size)
        files.write_json(place, measured)
    weights, because = weights_kind(path, takes_ema(option))
    found = {"weights": weights, "weights_because": because, "average": _average_of(locate(path))}
    return {"model": path, **measured, **found}


def refuse_contradicted(passport: JsonObject) -> None:
    """Raise BadConfig if another hypothesis fits the weights far better than the stated one."""
    if passport["verdict"] == "contradicted":
        stated, best = passport["stated"], passport["fits"][0]
        raise BadConfig(
            f"{passport['model']} states {describe(stated)}, which leaves "
            f"{stated['unexplained']:.0%} of the images' variance unexplained; its weights fit "
            f"{describe(best)}: {best['unexplained']:.0%}\n"
            "correct its scheduler_config.json (prediction_type, beta_schedule, beta_start, "
            "beta_end); type: deme doctor model=... data=... to see all hypotheses\n"
            "if the config is right, type: passport.contradicted=train"
        )


def _measured(
    path: str,
    num_images: int,
    model: DenoisingModel,
    data: ImageData,
    device: str,
    cache: Path,
    batch_size: int,
) -> Probed:
    images = data.held_out if len(data.held_out) >= num_images else data.train
    chosen = chosen_images(images, num_images, "passport images", len(images))
    count = len(chosen)
    x0, condition = eval_sample(encode_images(model, chosen, device, cache), list(range(count)))
    was_training = model.training
    model.eval().to(device)
    schedules = known_schedules(model.schedule)
    fits = probe(model, schedules, x0, device, batch_size, condition)
    model.train(was_training)
    if not all(math.isfinite(fit.unexplained) for fit in fits):
        raise NotFinite(
            f"{path} predicts NaN or infinite values from {count} noisy images: its weights are "
            "damaged or too large"
        )
    verdict, stated = assess_fits(fits, model.prediction_type)
    return {
        "verdict": cast(Verdict, verdict),
        "stated": _row(stated),
        "fits": [_row(fit) for fit in fits],
        "num_images": count,
        "torch": torch.__version__,
    }


def _row(fit: Fit) -> Hypothesis:
    one = fit.hypothesis
    return {
        "prediction_type": one.prediction_type,
        "schedule": one.schedule,
        "value_range": one.value_range,
        "unexplained": round(fit.unexplained, 6),
    }


def describe(row: Hypothesis) -> str:
    """Return a hypothesis as text; the usual value range is left out."""
    text = f"{row['prediction_type']}, {row['schedule']} schedule"
    usual = row["value_range"] == next(iter(VALUE_RANGES))
    return text if usual else f"{text}, pixels in {row['value_range']}"


def weights_kind(path: str, ema: bool = False) -> tuple[str, str]:
    """Return ema, raw or unknown, and the reason; the weights themselves do not show it.

    `ema`: of the weights in unet_ema/.
    """
    if ema:
        return "ema", f"model.ema=true takes those of {EMA}/"
    folder = locate(path)
    about = read_about(folder)
    if isinstance(about.get("ema"), bool):
        because = f": {text}" if (text := about.get("average")) else ""
        return "ema" if about["ema"] else "raw", f"stated in its deme.json{because}"
    on_hub = path.removeprefix(HUB).partition("@")[0] if path.startswith(HUB) else None
    for name, known in KNOWN.items():
        if name == on_hub or (on_hub is None and Path(name).name == folder.name):
            return (
                known,
                f"{name} on the Hub has such ones (docs/method.md#starting-checkpoints)",
            )
    inside = [folder.name, *(place.name for place in model_folders(folder))]
    for kind in ("ema", "raw"):
        if kind in inside:
            return kind, f"the folder is called {kind}"
    if "ema" in Path(path).name.lower().replace("_", "-").split("-"):
        return "ema", "stated in its name"
    return "unknown", "nothing states whether they are averaged (EMA)"


def _average_of(folder: Path) -> str | None:
    """Return the path of the average of a folder's raw weights, if it is next to them."""
    if (folder / EMA).is_dir():
        return "model.ema=true"
    sibling = folder.with_name(EMA_WEIGHTS)
    return str(sibling) if folder.name == RAW_WEIGHTS and sibling.is_dir() else None


def warn_of_raw_teacher(path: str, ema: bool = False) -> None:
    """Log a warning if the teacher of a consistency loss is known not to be averaged."""
    if weights_kind(path, ema)[0] == "raw":
        logger.warning(
            "the teacher %s is raw (not averaged): the consistency loss keeps the model near the "
            "noise of its weights, which averaging would remove (docs/method.md#teacher)",
            path,
        )


def format_passport(passport: JsonObject) -> list[str]:
    """Return the lines of a passport for the terminal, without `raw_warning`."""
    stated, best = passport["stated"], passport["fits"][0]
    lines = [
        f"{passport['model']}: predicts {describe(stated)}; its predictions on "
        f"{passport['num_images']} noisy images leave {stated['unexplained']:.1%} of the images' "
        "variance unexplained (0% is perfect, 100% explains nothing)"
    ]
    if passport["verdict"] == "unclear":
        lines.append(
            "under no prediction type and schedule does the model explain these images (best: "
            f"{describe(best)}, {best['unexplained']:.0%} unexplained): its weights are untrained, "
            "or it was trained on other images"
        )
    kinds = {"ema": "averaged (ema)", "raw": "raw, not averaged"}
    kind = kinds.get(passport["weights"], "averaged or raw, which is unknown")
    lines.append(f"weights: {kind}: {passport['weights_because']}")
    return lines


def raw_warning(passport: JsonObject) -> list[str]:
    """Return the lines of a warning if the weights are known not to be averaged, else none."""
    if passport["weights"] != "raw":
        return []
    found = passport.get("average")
    return [
        "this base is not averaged: average it first, as otherwise "
        "most of what finetuning gains comes from averaging",
        f"its average is here: {found}"
        if found
        else "ema=... of a training run, or deme average of its snapshots, makes an average; "
        "without one, compare with method=finetune, which averages, too",
    ]
