"""The model card of an exported model: what it is, how to load it, how it was made, what was
measured. No torch here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from deme.report.records import Evaluation, Record, public_name

PAPER = "https://arxiv.org/abs/2410.06664"
SHOWN_VERSIONS = ("torch", "diffusers", "pytorch-lightning")


@dataclass(frozen=True)
class Exported:
    """How a model was exported. `called`: what `from_pretrained` takes; `projections`: none, folded
    or kept."""

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
        "merged": f"finetuned{base} by one expert per range of timesteps; the experts are merged in parameter space "
        f"([decouple-then-merge]({PAPER}))",
        "expert": f"one expert of [decouple-then-merge]({PAPER}), finetuned{base}",
        "finetuned": f"finetuned{base}",
        "pretrained": "trained from random weights",
        "model": "exported as it was found; nothing is recorded of how it was made",
    }[record.kind]
    kind = "A text-to-image" if exported.takes_prompts else "An unconditional"
    return (
        f"{kind} diffusion model of {height} x {width} images with {_count(channels, 'channel')} "
        f"({exported.num_parameters:,} parameters, {exported.dtype}, predicts {exported.prediction_type}): {how}."
    )


def _notes(record: Record, exported: Exported) -> Iterable[str]:
    if record.kind == "expert":
        low, high = record.about["range"]
        yield (
            f"This is an expert: it is trained for the timesteps t in [{low}, {high}) of {record.about['num_timesteps']} only. "
            "Elsewhere another model has to answer; images that it draws alone are not what the method gives."
        )
    if exported.projections == "kept":
        yield (
            "The channel projections in `unet/projections.safetensors` are part of this model. Stock diffusers ignores them: it "
            "loads the folder without an error and draws other images. Load it with `deme`."
        )


def _snippet(record: Record, exported: Exported) -> str:
    if exported.projections == "kept":
        place = exported.called if "/" not in exported.called else f"hub:{exported.called}"
        return f'from deme.models.loading import load_pretrained\n\nmodel = load_pretrained("{place}")  # model(x_t, t)'
    if exported.takes_prompts:
        return (
            "from diffusers import StableDiffusionPipeline\n\n"
            f'pipeline = StableDiffusionPipeline.from_pretrained("{exported.called}")\n'
            'images = pipeline("a photo of a cat", num_inference_steps=25).images'
        )
    samplers = [each.config.get("sampler", {}) for each in record.evaluations]
    plain = [
        s
        for s in samplers
        if s.get("_target_", "").endswith(".DDIM") and s.get("skip_type") == "uniform"
    ]
    sampler: Mapping[str, Any] = plain[0] if plain else {}
    dtype = (
        "" if exported.dtype == "float32" else ", torch_dtype=torch.float32"
    )  # the pipeline cannot return bfloat16
    eta = f", eta={sampler['eta']}" if sampler.get("eta") else ""
    return "\n".join(
        [
            *(["import torch"] if dtype else []),
            "from diffusers import DDIMPipeline, DDIMScheduler",
            "",
            f'pipeline = DDIMPipeline.from_pretrained("{exported.called}"{dtype})',
            "pipeline.scheduler = DDIMScheduler.from_config(",
            f"    pipeline.scheduler.config, clip_sample={sampler.get('clip_sample', True)}, "
            f'timestep_spacing="{sampler.get("timestep_spacing", "leading")}", set_alpha_to_one=True, steps_offset=0',
            ")",
            f"images = pipeline(batch_size=4, num_inference_steps={sampler.get('num_inference_steps', 50)}{eta}).images",
        ]
    )


def _made(record: Record, exported: Exported) -> Iterable[str]:
    if record.base or record.about.get("base"):
        known = f", content sha256 `{record.about['base']}`" if record.about.get("base") else ""
        yield f"Base: `{record.base or 'unknown'}`{known}"
    ranges = [each.about.get("range") for each in record.trainings]
    if any(ranges):
        yield "Ranges of timesteps: " + ", ".join(
            "all" if r is None else f"[{r[0]}, {r[1]})" for r in ranges
        )
    if record.kind == "merged":
        yield "Merge weights, low noise first: " + ", ".join(
            f"{weight:.6g}" for weight in record.about["weights"]
        )
    if record.merge:
        yield f"Merge: {_call({k: v for k, v in record.merge['merge'].items() if k != 'weights'})}"
    settings = [_settings(each.config, each.about) for each in record.trainings]
    for key in dict.fromkeys(key for each in settings for key in each):
        values = [each.get(key, "none") for each in settings]
        yield f"{key}: {'; '.join(values if len(set(values)) > 1 else values[:1])}"
    if record.lost:
        yield f"Experts whose records were not found: {', '.join(record.lost)}"
    if exported.projections == "folded":
        yield "Channel projections: multiplied into their layers"
    if record.made:
        versions = [
            f"{name} {record.made['versions'][name]}"
            for name in SHOWN_VERSIONS
            if name in record.made["versions"]
        ]
        git = record.made.get("git")
        commit = (
            f", commit `{git['commit']}`{' with changes' if git['dirty'] else ''}" if git else ""
        )
        yield f"Software: deme {record.made['deme']}{commit}, {', '.join(versions)}, Python {record.made['python']}"
    yield f"{'Run' if record.made else 'Exported from'}: `{record.name}`, weights sha256 `{record.weights}`"


def _settings(config: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, str]:
    """What was trained how; the keys are those of the card."""
    images = f", {about['num_images']:,} training images" if "num_images" in about else ""
    place = f" `{public}`" if (public := _data_name(config["data"])) else ""
    clip = config.get("gradient_clip")
    return {
        "Training data": f"{config['cell'].get('data') or _call(config['data'])}{place}{images}",
        "Method": _call(config["method"]),
        "Loss weighting": _call(config["weighting"]),
        "Timesteps": _call(config["timesteps"]),
        "Optimizer steps": f"{config['num_steps']:,} of {config['batch_size'] * config['accumulate']} images",
        "Optimizer": f"{_call(config['optimizer'])}, {_call(config['learning_rate'])}"
        + (f", gradients clipped to norm {clip}" if clip else ""),
        "EMA": _call(config["ema"]) if config["ema"] else "none",
        "Precision": f"{config['compute']['precision']} on {config['compute']['accelerator']}",
        "Projections while training": str(config.get("projection", {}).get("placement") or "none"),
        "Seed": str(config["seed"]),
    }


def _data_name(data: Mapping[str, Any]) -> str:
    place = data.get("path") or data.get("root")
    return public_name(str(place)) if place else ""


def _call(spec: Mapping[str, Any]) -> str:
    """Return a config with `_target_` as a call: AdamW(lr=1e-4). Paths are left out."""
    given = ", ".join(
        f"{key}={value}" for key, value in spec.items() if key not in ("_target_", "path", "root")
    )
    return f"{spec.get('_target_', '').rpartition('.')[2]}({given})"


def _evaluations(record: Record, exported: Exported) -> Iterable[str]:
    if not record.evaluations:
        yield "No finished evaluation of these weights was found when the model was exported."
        return
    folded = " before the projections were folded" if exported.projections == "folded" else ""
    rounded = f"; here they are rounded to {exported.dtype}" if exported.dtype != "float32" else ""
    yield f"By `deme evaluate`, of the run's weights{folded}{rounded}."
    yield from (_evaluation(each) for each in record.evaluations)


def _evaluation(evaluation: Evaluation) -> str:
    config = evaluation.config
    lines = [
        f"{config['num_images']:,} images from seed {config['sample_seed']}, {_call(config['sampler'])}, "
        f"{config['compute']['precision']}:",
        "",
        "| metric | value | 95% interval | n | better | reference | implementation |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, metric in evaluation.metrics.items():
        if "/" not in name:
            interval = (
                "[{:.4g}, {:.4g}]".format(*metric["interval"]) if "interval" in metric else ""
            )
            cells = [name, f"{metric['value']:.4g}", interval, f"{metric['n']:,}"]
            cells += [
                str(metric.get(key, "")).replace("|", "\\|")
                for key in ("better", "reference", "implementation")
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
