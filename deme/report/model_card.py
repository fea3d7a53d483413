"""The model card of an exported model: how to load it, how it was made, what was measured."""

from collections.abc import Iterable
from dataclasses import dataclass

import yaml

from deme.report.records import Evaluation, Record, Training, public_name
from deme.runs.settings.base import Option
from deme.runs.settings.merging import MergeSettings, SearchSettings

PAPER = "https://arxiv.org/abs/2410.06664"
SHOWN_VERSIONS = ("torch", "diffusers", "pytorch-lightning")
LABELS = ("better", "reference", "implementation")


@dataclass(frozen=True)
class Exported:
    """How a model was exported.

    `called`: what `from_pretrained` takes; `projections`: none, folded or kept.
    """

    called: str
    dtype: str
    projections: str
    image_shape: tuple[int, int, int]
    num_parameters: int
    prediction_type: str
    license: str | None
    pipeline: str = "DDPMPipeline"

    @property
    def takes_prompts(self) -> bool:
        """Whether images are drawn from texts."""
        return self.pipeline == "StableDiffusionPipeline"


def model_card(record: Record, exported: Exported) -> str:
    """Return README.md for a model folder, with front matter for the Hugging Face Hub."""
    by_the_method = record.kind in ("merged", "expert")
    front = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image"
        if exported.takes_prompts
        else "unconditional-image-generation",
        "license": exported.license or "unknown",
        "tags": ["diffusers", "deme", *(["decouple-then-merge"] if by_the_method else [])],
    }
    if record.base and record.base.startswith("hub:"):
        front["base_model"] = record.base.removeprefix("hub:").partition("@")[0]
    name = exported.called.rstrip("/").rpartition("/")[2]
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {name}",
        _what(record, exported),
        *(f"> **Note.** {note}" for note in _notes(record, exported)),
        "## Use",
        f"```python\n{_snippet(record, exported)}\n```",
        "## How it was made",
        "\n".join(f"* {line}" for line in _made(record, exported)),
        "## Evaluation",
        *_evaluations(record, exported),
    ]
    if by_the_method:
        title = "Decouple-Then-Merge: Finetune Diffusion Models as Multi-Task Learning"
        parts += ["## Citation", f"Ma et al., *{title}*, CVPR 2025, [arXiv:2410.06664]({PAPER})."]
    return "\n\n".join(parts) + "\n"


def _what(record: Record, exported: Exported) -> str:
    channels, height, width = exported.image_shape
    base = f" from `{record.base}`" if record.base else ""
    how = {
        "merged": f"finetuned{base} by one expert per range of timesteps; the experts are merged "
        f"in parameter space ([decouple-then-merge]({PAPER}))",
        "expert": f"one expert of [decouple-then-merge]({PAPER}), finetuned{base}",
        "finetuned": f"finetuned{base}",
        "pretrained": "trained from random weights",
        "model": "exported as it was found; nothing is recorded of how it was made",
    }[record.kind]
    kind = "A text-to-image" if exported.takes_prompts else "An unconditional"
    return (
        f"{kind} diffusion model of {height} x {width} images with {channels} "
        f"channel{'' if channels == 1 else 's'} ({exported.num_parameters:,} parameters, "
        f"{exported.dtype}, predicts {exported.prediction_type}): {how}."
    )


def _notes(record: Record, exported: Exported) -> Iterable[str]:
    if record.kind == "expert":
        low, high = record.about["range"]
        yield (
            f"This is an expert: it is trained for the timesteps t in [{low}, {high}) of "
            f"{record.about['num_timesteps']} only. Elsewhere another model has to answer; images "
            "that it draws alone are not what the method gives."
        )
    if exported.projections == "kept":
        yield (
            "The channel projections in `unet/projections.safetensors` are part of this model. "
            "Stock diffusers ignores them: it loads the folder without an error and draws other "
            "images. Load it with `deme`."
        )


DEME_SNIPPET = """\
from deme.models.loading import load_pretrained

model = load_pretrained("{place}")  # model(x_t, t)"""

PROMPTS_SNIPPET = """\
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("{called}")
images = pipeline("a photo of a cat", num_inference_steps=25).images"""

DDIM_SNIPPET = """\
{imports}from diffusers import DDIMPipeline, DDIMScheduler

pipeline = DDIMPipeline.from_pretrained("{called}"{dtype})
pipeline.scheduler = DDIMScheduler.from_config(
    pipeline.scheduler.config, clip_sample={clip_sample}, \
timestep_spacing="{spacing}", set_alpha_to_one=True, steps_offset=0
)
images = pipeline(batch_size=4, num_inference_steps={steps}{eta}).images"""


def _snippet(record: Record, exported: Exported) -> str:
    """Return the code that draws images as the first DDIM evaluation of the record did."""
    called = exported.called
    if exported.projections == "kept":
        return DEME_SNIPPET.format(place=called if "/" not in called else f"hub:{called}")
    if exported.takes_prompts:
        return PROMPTS_SNIPPET.format(called=called)
    samplers = [each.settings.sampler for each in record.evaluations]
    plain = [
        each
        for each in samplers
        if each["_target_"].endswith(".DDIM") and each.get("skip_type") == "uniform"
    ]
    sampler = plain[0] if plain else {}
    rounded = exported.dtype != "float32"  # the pipeline cannot return bfloat16
    return DDIM_SNIPPET.format(
        imports="import torch\n" if rounded else "",
        called=called,
        dtype=", torch_dtype=torch.float32" if rounded else "",
        clip_sample=sampler.get("clip_sample", True),
        spacing=sampler.get("timestep_spacing", "leading"),
        steps=sampler.get("num_inference_steps", 50),
        eta=f", eta={sampler['eta']}" if sampler.get("eta") else "",
    )


def _made(record: Record, exported: Exported) -> Iterable[str]:
    if record.base or record.about.get("base"):
        known = f", content sha256 `{record.about['base']}`" if record.about.get("base") else ""
        yield f"Base: `{record.base or 'unknown'}`{known}"
    ranges = [each.about.get("range") for each in record.trainings]
    if any(ranges):
        texts = ("all" if r is None else f"[{r[0]}, {r[1]})" for r in ranges)
        yield f"Ranges of timesteps: {', '.join(texts)}"
    if record.kind == "merged":
        weights = ", ".join(f"{weight:.6g}" for weight in record.about["weights"])
        yield f"Merge weights, low noise first: {weights}"
    if isinstance(record.merge, (MergeSettings, SearchSettings)):
        yield f"Merge: {_call(record.merge.merge, 'weights')}"
    settings = [_settings(each) for each in record.trainings]
    for key in settings[0] if settings else ():
        yield f"{key}: {'; '.join(_once([each[key] for each in settings]))}"
    if record.lost:
        yield f"Experts whose records were not found: {', '.join(record.lost)}"
    if exported.projections == "folded":
        yield "Channel projections: multiplied into their layers"
    if record.made:
        known = record.made["versions"]
        versions = ", ".join(f"{n} {known[n]}" for n in SHOWN_VERSIONS if n in known)
        git = record.made.get("git")
        changes = " with changes" if git and git["dirty"] else ""
        commit = f", commit `{git['commit']}`{changes}" if git else ""
        yield (
            f"Software: deme {record.made['deme']}{commit}, {versions}, "
            f"Python {record.made['python']}"
        )
    origin = "Run" if record.made else "Exported from"
    yield f"{origin}: `{record.name}`, weights sha256 `{record.weights}`"


def _once(values: list[str]) -> list[str]:
    """Return one value if all are equal."""
    return values if len(set(values)) > 1 else values[:1]


def _settings(training: Training) -> dict[str, str]:
    """What was trained how; the keys are those of the card."""
    settings, about = training.settings, training.about
    data = settings.data or {"_target_": "none"}
    place = data.get("path") or data.get("root")
    clip = settings.gradient_clip
    return {
        "Training data": str(settings.cell.get("data") or _call(data))
        + (f" `{public_name(str(place))}`" if place else "")
        + (f", {about['num_images']:,} training images" if "num_images" in about else ""),
        "Method": _call(settings.method),
        "Loss weighting": _call(settings.weighting),
        "Timesteps": _call(settings.timesteps),
        "Optimizer steps": f"{settings.num_steps:,} of "
        f"{settings.batch_size * settings.accumulate} images",
        "Optimizer": f"{_call(settings.optimizer)}, {_call(settings.learning_rate)}"
        + (f", gradients clipped to norm {clip}" if clip else ""),
        "EMA": _call(settings.ema) if settings.ema else "none",
        "Precision": f"{settings.compute.precision} on {settings.compute.accelerator}",
        "Projections while training": settings.projection.placement or "none",
        "Seed": str(settings.seed),
    }


def _call(option: Option, *hidden: str) -> str:
    """Return an option with `_target_` as a call: AdamW(lr=1e-4). Paths are left out."""
    hidden = ("_target_", "path", "root", *hidden)
    given = ", ".join(f"{key}={value}" for key, value in option.items() if key not in hidden)
    return f"{option['_target_'].rpartition('.')[2]}({given})"


def _evaluations(record: Record, exported: Exported) -> Iterable[str]:
    if not record.evaluations:
        yield "No finished evaluation of these weights was found when the model was exported."
        return
    folded = " before the projections were folded" if exported.projections == "folded" else ""
    rounded = f"; here they are rounded to {exported.dtype}" if exported.dtype != "float32" else ""
    yield f"By `deme evaluate`, of the run's weights{folded}{rounded}."
    yield from (_evaluation(each) for each in record.evaluations)


def _evaluation(evaluation: Evaluation) -> str:
    settings = evaluation.settings
    lines = [
        f"{settings.num_images:,} images from seed {settings.sample_seed}, "
        f"{_call(settings.sampler)}, {settings.compute.precision}:",
        "",
        "| metric | value | 95% interval | n | better | reference | implementation |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, metric in evaluation.metrics.items():
        if "/" not in name:
            interval = metric.get("interval")
            cells = [
                name,
                f"{metric['value']:.4g}",
                "[{:.4g}, {:.4g}]".format(*interval) if interval else "",
                f"{metric['n']:,}",
                *(str(metric.get(key, "")).replace("|", "\\|") for key in LABELS),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
