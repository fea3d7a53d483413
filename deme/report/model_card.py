"""The model card of an exported model: how to load it, how it was made, what was measured."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import yaml

from deme.report.escape import markdown_code, markdown_text
from deme.report.records import Evaluation, ModelHistory, Training, public_name
from deme.report.typed_options import chosen_option, typed_option
from deme.runs import ExportSettings, Option, RunSettings
from deme.system import PACKAGE, locate, shortened

if TYPE_CHECKING:
    from deme.models.denoiser import DenoisingModel


PAPER = "https://arxiv.org/abs/2410.06664"


class Markdown(str):
    """A text that the template inserts as it is; every other is escaped."""

    __slots__ = ()


def model_card(
    record: ModelHistory,
    settings: ExportSettings,
    model: "DenoisingModel",
    projections: str,
    num_parameters: int,
) -> str:
    """Return README.md for a model folder, with front matter for the Hugging Face Hub.

    `projections` of the model in the folder: "none", "folded" or "kept".
    """
    takes_prompts = model.is_latent
    method = ["decouple-then-merge"] if record.kind in ("merged", "expert") else []
    return _rendered(
        "model_card.md.jinja",
        front=_front_matter(settings, record.base, method, _task(model)),
        record=record,
        evaluations=_different(record.evaluations),
        called=settings.push or Path(settings.out).name,  # what from_pretrained takes
        dtype=settings.dtype,
        projections=projections,
        num_parameters=num_parameters,
        takes_prompts=takes_prompts,
        has_stock_pipeline=_has_stock_pipeline(model),
        model=model,
        base=public_base(str(record.about.get("base_model", ""))),
        is_kohya=settings.format == "kohya",
        paper=PAPER,
        sampler=_ddim_settings(record),
        trainings=_trainings(record),
        teachers=_teachers(record),
    )


def experts_card(template: str, settings: ExportSettings, base: str | None, **more: object) -> str:
    """Return README.md for experts that are not merged. `base`: of LoRAs, as deme.json names it."""
    lora = ["lora"] if base is not None else []
    return _rendered(
        template,
        front=_front_matter(settings, base, ["decouple-then-merge", *lora]),
        called=settings.called,
        pushed=settings.push is not None,
        boundary_ratio=settings.boundary_ratio,
        base=public_base(base or ""),
        **more,
    )


def _rendered(template: str, **values: object) -> str:
    environment = jinja2.Environment(keep_trailing_newline=True, finalize=_shown)
    environment.filters |= {
        "option": _option,
        "code": lambda text: Markdown(markdown_code(text)),
        "markdown": Markdown,
        "python": lambda value: Markdown(_literal(value)),
    }
    return environment.from_string((PACKAGE / "assets" / template).read_text()).render(values)


def _front_matter(
    settings: ExportSettings, base: str | None, tags: Sequence[str], task: str | None = None
) -> str:
    """Return what the Hugging Face Hub reads of a card."""
    front: dict[str, object] = {
        "library_name": "diffusers",
        "license": settings.license or "unknown",
        "tags": ["diffusers", "deme", *tags],
    }
    if task is not None:
        front["pipeline_tag"] = task
    if base is not None and base.startswith("hub:"):
        front["base_model"] = public_base(base)
    return yaml.safe_dump(front, sort_keys=False)


def _task(model: "DenoisingModel") -> str | None:
    """Return the Hub's name of what a model does; None for class-conditional ones: it has none."""
    if model.is_latent:
        return "image-to-image" if model.takes_masks else "text-to-image"
    return None if model.is_conditional else "unconditional-image-generation"


def has_lora_loader(pipeline: str) -> bool:
    """Whether a pipeline class of diffusers loads LoRAs."""
    import diffusers

    return hasattr(getattr(diffusers, pipeline, None), "load_lora_weights")


def public_base(base: str) -> str:
    """Return a base as diffusers' from_pretrained takes it: a name on the Hub, or a path."""
    if base.startswith("hub:"):
        return base.removeprefix("hub:").partition("@")[0]
    return str(locate(base)) if base.startswith("asset:") else base


def _has_stock_pipeline(model: "DenoisingModel") -> bool:
    """Whether diffusers has a pipeline that generates images with the exported folder."""
    from deme.diffusion import FlowSchedule

    if model.adapter is not None:
        return has_lora_loader(model.pipeline)
    return model.is_latent or not (model.is_conditional or isinstance(model.schedule, FlowSchedule))


def _different(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return evaluations without those that repeat a loss, which no sampling seed changes."""
    return [
        each
        for index, each in enumerate(evaluations)
        if each.settings.metrics.measures_images
        or each.metrics not in [other.metrics for other in evaluations[:index]]
    ]


def _shown(value: object) -> object:
    """Return a value for the template, with characters escaped that have a meaning in Markdown."""
    return value if isinstance(value, Markdown) else markdown_text(value)


def _literal(value: object) -> str:
    """Return a value as a literal of Python, for code that readers copy."""
    if not isinstance(value, str):
        return repr(value)
    return json.dumps(shortened(value), ensure_ascii=not value.isprintable())


def _ddim_settings(record: ModelHistory) -> Option:
    """Return the first DDIM sampler among the evaluations' that stock diffusers has, or {}."""
    for evaluation in record.evaluations:
        sampler = evaluation.settings.sampler
        if sampler["_target_"].endswith(".DDIM") and sampler.get("skip_type") == "uniform":
            return sampler
    return {}


def _trainings(record: ModelHistory) -> dict[str, list[str]]:
    """Return the settings of the trainings by the keys of the card; equal ones once."""
    settings = [_settings(each) for each in record.trainings]
    found = {key: [each[key] for each in settings] for key in (settings[0] if settings else ())}
    return {key: values if len(set(values)) > 1 else values[:1] for key, values in found.items()}


def _teachers(record: ModelHistory) -> list[str]:
    """Return the names of the experts that a training was distilled from."""
    named = record.made.get("inputs", {}) if record.merge is None else {}
    return [public_name(each) for each in named.get("experts", {})]


def _settings(training: Training) -> dict[str, str]:
    """What was trained how, as Markdown; the keys are those of the card."""
    settings, about = training.settings, training.about
    place = (settings.data or {}).get("path") or (settings.data or {}).get("root")
    clip = settings.gradient_clip
    named = f" {markdown_code(public_name(str(place)))}" if place else ""
    images = f", {about['num_images']:,} training images" if "num_images" in about else ""
    texts: dict[str, str] = {
        "Method": _option(settings, "method"),
        "Loss weighting": _option(settings, "weighting"),
        "Timesteps": _option(settings, "timesteps"),
        "Optimizer steps": f"{settings.num_steps:,} of "
        f"{settings.batch_size * settings.accumulate} images",
        "Optimizer": _option(settings, "optimizer"),
        "Learning rate": _option(settings, "learning_rate"),
        "Gradients": f"clipped to norm {clip}" if clip else "not clipped",
        "EMA": _option(settings, "ema") if settings.ema and about.get("ema", True) else "none",
        "Precision": f"{settings.compute.precision} on {settings.compute.accelerator}",
        "Projections while training": settings.projection.placement or "none",
        "Seed": str(settings.seed),
    }
    data = settings.cell.get("data")
    if data is None:
        data = (chosen_option(settings, "data") or "own class") if settings.data else "none"
    return {
        "Training data": f"{markdown_text(str(data))}{named}{images}",
        **{key: str(_shown(text)) for key, text in texts.items()},
    }


def _option(settings: RunSettings, group: str, *hidden: str) -> Markdown:
    """Return an option of a run as typed on the command line, as a code span."""
    return Markdown(markdown_code(typed_option(settings, group, hidden)))
