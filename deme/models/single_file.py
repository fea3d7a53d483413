"""Stable Diffusion checkpoints in one file, as diffusers' single-file loaders read them."""

from collections.abc import Iterable
from pathlib import Path

import diffusers
import torch
from diffusers.loaders.single_file_utils import infer_diffusers_model_type

from deme.system import BadConfig, WorkFailed, first_line, locate
from deme.system.hugging_face import quietly
from deme.system.tensors import TensorFile

NETWORK = "model.diffusion_model."  # before the names of the network's tensors
DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
)  # the first that a file has; float8: the last
PIPELINES = {  # by what diffusers calls the layout
    "v1": "StableDiffusionPipeline", "v2": "StableDiffusionPipeline",
    "inpainting": "StableDiffusionInpaintPipeline",
    "inpainting_v2": "StableDiffusionInpaintPipeline",
    "xl_base": "StableDiffusionXLPipeline", "xl_inpaint": "StableDiffusionXLInpaintPipeline",
}  # fmt: skip


def is_single_file(names: Iterable[str]) -> bool:
    """Whether a file with tensors of these names holds a whole pipeline."""
    return any(name.startswith(NETWORK) for name in names)


def convert_single_file(file: Path, config: str | None, folder: Path) -> None:
    """Write the pipeline in a safetensors file into a folder, in the network's precision.

    `config`: a pipeline's folder whose configs and tokenizer are taken; None: those of the model
    that diffusers takes the file for, from the Hub. Raises BadConfig for another layout, WorkFailed
    for what diffusers cannot read.
    """
    specs = TensorFile(file).specs
    shapes = {name: torch.empty(shape, device="meta") for name, (shape, _) in specs.items()}
    kind = str(infer_diffusers_model_type(shapes))
    if kind not in PIPELINES:
        raise BadConfig(
            f"{file} is a single-file checkpoint that diffusers identifies as {kind}; allowed: "
            "Stable Diffusion 1.x, 2.x, XL and their inpainting versions\n"
            "type: model=diffusers model.path=<folder of this model in diffusers' format>"
        )
    if config is not None:
        config = str(locate(config))
    found = {dtype for name, (_, dtype) in specs.items() if name.startswith(NETWORK)}
    dtype = next((each for each in DTYPES if each in found), DTYPES[-1])
    try:
        with quietly():
            pipeline = getattr(diffusers, PIPELINES[kind]).from_single_file(
                str(file), config=config, torch_dtype=dtype
            )
            pipeline.save_pretrained(folder)
    except Exception as error:  # whatever diffusers makes of such a file
        raise WorkFailed(
            f"{file} is not converted: {first_line(error)}\n"
            "type: config=<folder of a pipeline of this architecture>, whose configs and tokenizer "
            "are used; without it they are taken from the Hugging Face Hub"
        ) from error
