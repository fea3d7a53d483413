"""The passport of a checkpoint: what its config states, what its weights fit on these images, raw or averaged weights."""

from pathlib import Path
from typing import Any

import torch

from deme import __version__
from deme.builders.data import encode_images
from deme.data import ImageData, SomeImages, eval_sample
from deme.diffusion.seeds import generator
from deme.models.denoiser import DenoisingModel
from deme.models.probe import VALUE_RANGES, Verdict, judge, known_schedules, probe
from deme.runs.identity import data_hash
from deme.runs.inputs import content_hash
from deme.runs.settings.base import build
from deme.runs.settings.groups import PathsSettings
from deme.system import files
from deme.system.errors import BadConfig
from deme.system.paths import cache_folder, locate

KNOWN_RAW = (
    "google/ddpm-cifar10-32",
)  # the Hub's CIFAR-10 model: FID 12.4, its EMA has 4.5 (METHOD 1.6)
TABLE = ("prediction_type", "schedule", "value_range", "unexplained")


def passport_of(
    config: dict[str, Any], model: DenoisingModel, data: ImageData, device: str
) -> dict[str, Any]:
    """Return the passport of the pretrained model that `config` names; measured once per model and data set."""
    count = config["passport"]["num_images"]
    key = files.sha256_text(
        repr([__version__, content_hash(config["model"]["path"]), data_hash(config["data"]), count])
    )
    place = cache_folder(build(PathsSettings, config["paths"])) / "passports" / f"{key[:32]}.json"
    if not place.exists():
        files.write_json(place, _measured(config, model, data, device))
    path = config["model"]["path"]
    return {"model": path, **files.read_json(place), **weights_kind(path)}


def check_settings(settings: dict[str, Any]) -> None:
    """Raise BadConfig for an unknown answer to a contradiction."""
    if settings["contradicted"] not in ("refuse", "train"):
        raise BadConfig(
            f"passport.contradicted must be refuse or train, got {settings['contradicted']!r}"
        )


def refuse_contradicted(passport: dict[str, Any]) -> None:
    """Raise BadConfig if the weights fit another prediction type, schedule or value range far better than the stated one."""
    if passport["verdict"] == "contradicted":
        stated, best = passport["stated"], passport["fits"][0]
        raise BadConfig(
            f"{passport['model']} says {described(stated)}, which leaves {stated['unexplained']:.0%} of these images unexplained; "
            f"its weights fit {described(best)}: {best['unexplained']:.0%}\n"
            "mend its scheduler_config.json (prediction_type, beta_schedule, beta_start, beta_end), or look with: "
            "deme doctor model=... data=...\nif you know better, type: passport.contradicted=train"
        )


def _measured(
    config: dict[str, Any], model: DenoisingModel, data: ImageData, device: str
) -> dict[str, Any]:
    count = config["passport"]["num_images"]
    images = data.held_out if len(data.held_out) >= count else data.train
    count = min(count, len(images))
    chosen = torch.randperm(len(images), generator=generator("passport images", len(images)))[
        :count
    ]
    seen = encode_images(
        model,
        SomeImages(images, sorted(chosen.tolist())),
        device,
        cache_folder(build(PathsSettings, config["paths"])),
    )
    x0, condition = eval_sample(seen, list(range(count)))
    was_training = model.training
    model.eval().to(device)
    fits = probe(model, known_schedules(model.schedule), x0, device, condition=condition)
    model.train(was_training)
    verdict: Verdict = judge(fits, model.prediction_type)

    def row(fit: Any) -> dict[str, Any]:
        about = fit.hypothesis
        values = (
            about.prediction_type,
            about.schedule,
            about.value_range,
            round(fit.unexplained, 6),
        )
        return dict(zip(TABLE, values, strict=True))

    return {
        "verdict": verdict.state,
        "stated": row(verdict.stated),
        "fits": [row(fit) for fit in fits],
        "num_images": count,
        "torch": torch.__version__,
    }


def described(row: dict[str, Any]) -> str:
    """Return a row of the passport's table in words; what is usual is left out."""
    parts = [row["prediction_type"], f"{row['schedule']} schedule"]
    parts += (
        [f"pixels in {row['value_range']}"]
        if row["value_range"] != next(iter(VALUE_RANGES))
        else []
    )
    return ", ".join(parts)


def weights_kind(path: str) -> dict[str, str]:
    """Return {"weights": ema, raw or unknown, "weights_because": why}; the weights themselves cannot tell."""
    folder = locate(path)
    about = files.read_json(folder / "deme.json") if (folder / "deme.json").is_file() else {}
    if isinstance(about.get("ema"), bool):
        return {
            "weights": "ema" if about["ema"] else "raw",
            "weights_because": "its deme.json says so",
        }
    if any(name in path for name in KNOWN_RAW):
        return {
            "weights": "raw",
            "weights_because": "this Hub model is known to be the one without averaging",
        }
    inside = [folder.name, *(p.name for p in sorted((folder / "weights").glob("[!.]*")))]
    for kind in ("ema", "raw"):
        if kind in inside:
            return {"weights": kind, "weights_because": f"the folder is called {kind}"}
    if "ema" in Path(path).name.lower().replace("_", "-").split("-"):
        return {"weights": "ema", "weights_because": "its name says so"}
    return {"weights": "unknown", "weights_because": "nothing says whether they are averaged (EMA)"}


def told(passport: dict[str, Any]) -> list[str]:
    """Return the passport in lines for a reader."""
    stated, best = passport["stated"], passport["fits"][0]
    lines = [
        f"{passport['model']}: {described(stated)}; leaves {stated['unexplained']:.1%} of the images' variance unexplained "
        f"({passport['num_images']} images, signal to noise 0.1 to 10)"
    ]
    if passport["verdict"] == "unclear":
        lines.append(
            f"no hypothesis explains these images (best: {described(best)}, {best['unexplained']:.0%} unexplained): "
            "untrained weights, or images unlike those it was trained on"
        )
    lines.append(f"weights: {passport['weights']} ({passport['weights_because']})")
    if passport["weights"] == "raw":
        lines.append(
            "any finetuning with an average of weights gains from the averaging alone: compare with method=finetune"
        )
    return lines
