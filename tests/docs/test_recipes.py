"""The commands and the code of docs/recipes/, on tiny pipelines of each family."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from deme.system.paths import locate
from tests.captioned import captioned_folder
from tests.pipeline.program import done, run
from tests.pipelines import saved

RECIPES = sorted((Path(__file__).parents[2] / "docs" / "recipes").glob("*.md"))
TINY = {
    "train": ["num_steps=2", "batch_size=4", "accumulate=1", "compute=cpu", "compute.gradient_checkpointing=false",
              "adapter.rank=2", "progress.preview.num_images=2", "progress.preview.num_inference_steps=2", "passport.num_images=16",
              "data.held_out_fraction=0.5"],
    "evaluate": ["compute=cpu", "metrics.loss.draws=1", "metrics.replicates=3", "batch_size=4", "data.held_out_fraction=0.5"],
    "sample": ["compute=cpu", "sampler.num_inference_steps=4"],
    "merge": [], "export": [],
}  # fmt: skip
SHIPPED = {"stable_diffusion": "asset:captioned_digits", "class_conditional": "asset:digits_flow",
           "unconditional": "asset:digits_base"}  # fmt: skip


def blocks(page, language=""):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page):
    """The `deme` commands of a page, with its variable filled in."""
    text = "\n".join(blocks(page)).replace("\\\n", " ")
    own = re.search(r'^OWN="(.*)"$', text, re.MULTILINE)[1]
    lines = [line.replace("$OWN", own) for line in text.splitlines()]
    return [line for line in lines if line.startswith("deme ")]


def test_there_is_a_recipe_for_every_family_of_pipelines():
    from deme.models.latent import LatentModel
    from deme.models.loading import families_by_network

    latent = {
        module.__name__.rpartition(".")[2]
        for module in families_by_network().values()
        if issubclass(module.MODEL, LatentModel)
    }
    latent -= {"stable_diffusion_inpainting"}  # on the page of Stable Diffusion
    assert {page.stem.replace("-", "_") for page in RECIPES} == latent | SHIPPED.keys()


@pytest.mark.parametrize("page", RECIPES, ids=lambda page: page.stem)
def test_the_commands_and_the_code_of_a_recipe_run(page, tmp_path):
    name = page.stem.replace("-", "_")
    if name in SHIPPED:
        (tmp_path / "my_model").symlink_to(locate(SHIPPED[name]))
    else:
        saved(name, tmp_path / "my_model")
    size = 128 if name == "sana" else 16 if name in SHIPPED else 32
    text = "{}" if name == "class_conditional" else "a photo of the digit {}"
    captioned_folder(tmp_path / "my_images", 10, (size, size), text)
    sized = {"flux": ["model.size=32"], "class_conditional": ["data.channels=1"]}.get(name, [])
    found, experts = [], []
    for line in commands(page):
        line = line.replace("<merge run>", str(found[-1]) if found else "")
        for expert in experts:
            line = line.replace("<expert run>", str(expert), 1)
        _, command, *words = shlex.split(line)
        words += [
            word for word in TINY[command] if "adapter" not in word or "adapter=lora" in words
        ]
        words += sized if command in ("train", "evaluate") else []
        if command == "sample" and name == "flux":
            words.append("size=32")
        if command == "merge":
            found.append(done([command, *words], tmp_path))
            continue
        code, text = run([command, *words], tmp_path)
        assert code == 0, f"{line}\n{text}"
        if command == "train":
            experts = sorted((tmp_path / "runs" / "mine" / "train").iterdir())
            assert len(experts) == 4
    (code,) = blocks(page, "python")
    code = code.replace("torch_dtype=torch.bfloat16", "torch_dtype=torch.float32")
    code = code.replace('pipeline.to("cuda")\n', "").replace("num_inference_steps=28", "num_inference_steps=2")  # fmt: skip
    if name in ("pixart_sigma", "sana"):  # their sizes are the published ones
        code = code.replace("guidance_scale=", "use_resolution_binning=False, guidance_scale=")
    if name == "flux":
        code = code.replace("guidance_scale=", "height=32, width=32, guidance_scale=")
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)  # fmt: skip
    assert result.returncode == 0, result.stderr
    if name != "class_conditional":  # its images are a tensor
        assert (tmp_path / "cat.png").stat().st_size > 100
