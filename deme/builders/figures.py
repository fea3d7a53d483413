"""What the figures of `deme analyze` are made from: models, experts, images, and what they cost."""

import time
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

import torch

from deme.analysis import Expert, LoadImages, NamedModel
from deme.builders.checkpoints import open_plan
from deme.builders.compute import Compute
from deme.builders.data import check_images, encode_images, load_data
from deme.builders.metrics import load_extractors
from deme.builders.models import load_experts, load_model
from deme.data import EncodedDataset, Images, chosen_images
from deme.diffusion import Network, generator, repeated
from deme.merging.plan import order_experts
from deme.models.denoiser import DenoisingModel
from deme.models.loading import load_folder
from deme.runs import AnalyzeSettings, content_hash, identity_hash, instantiate, weights_folder
from deme.runs.inputs import find
from deme.system import BadConfig, cache_folder, single_line

SECONDS_TIMED = 0.3


def figure_inputs(settings: AnalyzeSettings) -> dict[str, object]:
    """Return what a figure may take by name; see `deme.analysis`."""
    compute = Compute.of(settings.compute)

    def model() -> DenoisingModel:
        found: DenoisingModel = instantiate(settings.model)
        return found.to(compute.device)

    data = cache(lambda: load_data(settings.data, settings.paths))
    return {
        "model": model,
        "data": data,
        "extractors": lambda: load_extractors(
            settings.metrics, data(), cache_folder(settings.paths)
        ),
        "images": _images(settings, compute.device),
        "experts": lambda: _experts(settings, compute.device),
        "models": lambda: _named_models(settings, compute),
        "cache": cache_folder(settings.paths),
        "runs": Path(settings.paths.runs),
        "device": compute.device,
        "run": settings.run,
    }


def figure_identity(settings: AnalyzeSettings, config: Mapping[str, object]) -> str:
    """Return the hash of what determines a figure's numbers: its settings and inputs' content."""
    kept = {key: config[key] for key in ("figure", "model", "data", "seed")}
    models = (settings.inputs.models or {}).items()
    inputs = [("experts", settings.inputs.experts or []), *models]
    hashes = {
        f"{number} {name}": sorted(content_hash(path) for path in find(list(places), Path()))
        for number, (name, places) in enumerate(inputs)
    }
    return identity_hash(kept, settings.stage, hashes)


def _images(settings: AnalyzeSettings, device: str) -> LoadImages:
    data_of = cache(lambda shape: load_data(settings.data, settings.paths, shape))

    def load(
        model: DenoisingModel, split: str, count: int | None = None, seed: int = 0
    ) -> Images | EncodedDataset:
        data = data_of(tuple(model.image_shape))
        if data is None:
            raise BadConfig("this figure needs images, and data=none\ntype: data=<option>")
        check_images(data, model)
        images = data.train if split == "train" else data.held_out
        if count is not None:
            images = chosen_images(images, count, "figure images", seed)
        return encode_images(model, images, device, cache_folder(settings.paths))

    return load


def _experts(settings: AnalyzeSettings, device: str) -> list[Expert]:
    """Return the experts of the base, by range. Raises BadConfig for others."""
    if not settings.inputs.experts:
        raise BadConfig(
            "this figure compares experts with their base\ntype: inputs.experts=[<run>,<run>,...]"
        )
    folders = [weights_folder(path) for path in find(list(settings.inputs.experts), Path())]
    order_experts(folders)  # raises BadConfig for models that are no experts
    plan = open_plan(settings.model, folders)

    def load(folder: Path) -> DenoisingModel:
        model = load_folder(str(folder), advice="")
        model.fuse_adapter()
        return model.to(device)

    return [
        Expert(one.range, partial(load, one.folder))
        for one in plan.experts
        if one.range is not None
    ]


def _named_models(settings: AnalyzeSettings, compute: Compute) -> list[NamedModel]:
    """Return the models to compare with the base, in their order. Raises BadConfig for none."""
    if not settings.inputs.models:
        raise BadConfig(
            "this figure compares models with the base\n"
            "type: 'inputs.models={<label>: <run or folder>, <label>: [<expert>,<expert>,...]}'"
        )
    found = []
    for label, places in settings.inputs.models.items():
        folders = [weights_folder(path) for path in find(list(places), Path())]
        if not folders:
            raise BadConfig(f"inputs.models: {single_line(label)} names no run or folder")
        ordered = order_experts(folders) if len(folders) > 1 else ()
        ranges = tuple(one.range for one in ordered if one.range is not None)
        found.append(NamedModel(label, ranges, partial(_network, label, folders, compute)))
    return found


def _network(label: str, folders: list[Path], compute: Compute, base: DenoisingModel) -> Network:
    """Load a model, or experts that take turns. Raises BadConfig unless it fits the base."""
    loaded = load_experts(folders, compute) if len(folders) > 1 else load_model(folders[0], compute)
    theirs, ours = (
        {
            "shape": model.noise_shape,
            "prediction type": model.prediction_type,
            "noise schedule": model.schedule.equivalent_alpha_bar.tolist(),
        }
        for model in (loaded.model, base)
    )
    if different := [name for name in ours if ours[name] != theirs[name]]:
        raise BadConfig(
            f"{label} has another {' and another '.join(different)} than the model: their losses "
            "cannot be compared\ntype: model=<what it was finetuned from>"
        )
    return loaded.exact


def seconds_per_pass(model: DenoisingModel) -> float:
    """Return how long a forward pass of one image takes, timed on growing batches of noise."""
    parameter = next(model.parameters())
    one = model.condition([model.example_text])
    count = 1
    with torch.inference_mode():
        while True:
            x_t = torch.randn(count, *model.noise_shape, generator=generator("time")).to(parameter)
            t = torch.zeros(count, dtype=torch.long, device=parameter.device)
            began = time.perf_counter()
            model(x_t, t, repeated(one, count)).sum().item()  # which waits for a GPU
            seconds = time.perf_counter() - began
            if count > 1 and (seconds > SECONDS_TIMED or count >= 256):
                return seconds / count
            count *= 2
