"""The recipes in docs/recipes/: one page for each family of pipelines, from the facts below.

Their commands and code are run on tiny pipelines by tests/docs/test_recipes.py.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import jinja2

DOCS = Path(__file__).parent
TEMPLATE = DOCS / "recipe_page.jinja"
MEMORY = DOCS.parent / "benchmarks" / "results" / "recipe_memory.json"


@dataclass(frozen=True)
class Recipe:
    """A base and how it is trained, sampled and loaded.

    `licence`: what to accept before its files can be downloaded. `is_flow`: trained by flow
    matching. `guidance`: a usual guidance scale. `encoders`: the text encoders and about how many
    GB they take in float32. `has_lora_loader`: whether its pipeline in diffusers loads LoRAs.
    `comfyui`: how ComfyUI loads the result. `notes`: what is special.
    """

    title: str
    repository: str
    licence: str
    pipeline: str
    is_flow: bool
    sampler: str
    guidance: float
    size: int
    encoders: str
    comfyui: str
    notes: tuple[str, ...] = ()
    has_lora_loader: bool = True


AS_IT_IS = (
    "copy `my_lora/pytorch_lora_weights.safetensors` to ComfyUI's `models/loras/`; it reads the "
    "names of diffusers for this model."
)
KOHYA = (
    "type `deme export run=<merge run> out=my_kohya_lora format=kohya`, and copy "
    "`my_kohya_lora/pytorch_lora_weights.safetensors` to ComfyUI's `models/loras/`. For UNets it "
    "reads the names of kohya, not those of diffusers."
)
RECIPES = {
    "stable-diffusion": Recipe(
        "Stable Diffusion 1.5 and 2.1",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "CreativeML Open RAIL-M",
        "StableDiffusionPipeline",
        False,
        "pndm",
        7.5,
        512,
        "CLIP: 0.5 GB",
        KOHYA,
        (
            "A checkpoint in one file, `model.safetensors`, becomes a folder with "
            "`deme convert model.safetensors out=my_model`.",
            "Inpainting networks (9 channels in) take the same commands, with a mask for each "
            "image: add `data.masks=<folder>` to each command that has `data=`.",
            "The commands and numbers are for 1.5. Stable Diffusion 2.1 with 768 pixels predicts "
            "v: add `weighting=constant_native` to `deme train`, the loss that it was trained "
            "with. Its memory was not computed.",
        ),
    ),
    "sdxl": Recipe(
        "Stable Diffusion XL",
        "stabilityai/stable-diffusion-xl-base-1.0",
        "CreativeML Open RAIL++-M",
        "StableDiffusionXLPipeline",
        False,
        "ddim_latent",
        5.0,
        1024,
        "two CLIP: 3.3 GB",
        KOHYA,
        (
            "A checkpoint in one file, `model.safetensors`, becomes a folder with "
            "`deme convert model.safetensors out=my_model`.",
            "The network also takes the size and the crop of an image. In training they are those "
            "of an image of the model's size that is neither resized nor cropped.",
        ),
    ),
    "sd3": Recipe(
        "Stable Diffusion 3 and 3.5",
        "stabilityai/stable-diffusion-3.5-medium",
        "Stability AI Community License: accept it on the page of the model, and log in with "
        "`hf auth login`",
        "StableDiffusion3Pipeline",
        True,
        "flow_euler",
        4.5,
        1024,
        "T5-XXL and two CLIP: 22 GB",
        AS_IT_IS,
        (
            "The scheduler's shift of 3 is part of the noise schedule: with it, half of the "
            "timesteps have a noise level above 0.75. `ranges=sigma` makes four ranges of equal "
            "width in the noise level.",
        ),
    ),
    "pixart-sigma": Recipe(
        "PixArt-Sigma",
        "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
        "CreativeML Open RAIL++-M",
        "PixArtSigmaPipeline",
        False,
        "ddim_latent",
        4.5,
        1024,
        "T5-XXL: 19 GB",
        "copy the weights in `my_model_2/transformer/` to ComfyUI's `models/diffusion_models/`; it "
        "reads the names of diffusers for this model.",
        (
            "diffusers' pipeline has no LoRA loader, so the merge is written as a whole pipeline "
            "(`lora.form=fuse`).",
            "The network also predicts a variance. It is not trained, and samplers ignore it.",
        ),
        has_lora_loader=False,
    ),
    "sana": Recipe(
        "Sana",
        "Efficient-Large-Model/Sana_1600M_1024px_diffusers",
        "NVIDIA's licence for the weights, and Gemma's terms of use for the text encoder",
        "SanaPipeline",
        True,
        "flow_euler",
        4.5,
        1024,
        "Gemma 2: 10 GB",
        "not possible: ComfyUI itself does not have Sana.",
        (
            "diffusers' pipeline puts an instruction before each prompt; `deme` encodes prompts "
            "without it. Give the pipeline `complex_human_instruction=None` to encode them alike. "
            "Images still differ from those of `deme sample` if the scheduler of the pipeline does "
            "not use Euler's method.",
        ),
    ),
    "flux": Recipe(
        "Flux.1",
        "black-forest-labs/FLUX.1-dev",
        "FLUX.1 [dev] Non-Commercial License: accept it on the page of the model, and log in with "
        "`hf auth login`",
        "FluxPipeline",
        True,
        "flow_euler",
        3.5,
        1024,
        "T5-XXL and CLIP: 20 GB",
        AS_IT_IS,
        (
            "The guidance scale is an input of the network, 3.5 in training. No second evaluation "
            "of the network is needed for guidance.",
            "The configs do not name a size: it is 1,024 unless `model.size=<pixels>` is given, in "
            "each of the commands.",
            "Training, too, loads the network in float32 before it is cast: 48 GB of main memory.",
        ),
    ),
}


def recipe_pages() -> dict[Path, str]:
    """Return the pages of docs/recipes/."""
    stored = json.loads(MEMORY.read_text())["recipes"]
    template = jinja2.Environment(keep_trailing_newline=True).from_string(TEMPLATE.read_text())
    return {
        DOCS / "recipes" / f"{name}.md": template.render(
            name=name,
            r=recipe,
            parameters=stored[name]["parameters"],
            memory=stored[name]["memory"].partition(" (")[0],
        ).rstrip()
        + "\n"
        for name, recipe in RECIPES.items()
    }
