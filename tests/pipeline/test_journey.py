"""A newcomer's way from a folder of images to a better model, small."""

import json

import pytest
from PIL import Image

from deme.data.digits import pixels_and_labels
from tests.journey import ROWS, Sizes, journey, load_in_diffusers
from tests.pipeline.program import run

QUICK = ["progress.preview.num_images=4", "progress.preview.num_inference_steps=2"]
SMALL = Sizes(
    pretrain_steps=3,
    expert_steps=2,
    pretrain=["batch_size=8", *QUICK],
    reproduce=[],
    improve=["steps_per_expert=2", "ideas=[merge]", "num_ranges=2", "search.num_images=20",
             "search.step=1", "num_images=20", "batch_size=50", *QUICK],
    shared=["batch_size=8", *QUICK],
)  # fmt: skip


def play(words, folder):
    code, text = run(words, folder)
    assert code == 0, (words, text)
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(
    ("side", "sizes"), [(8, SMALL), pytest.param(28, Sizes(), marks=pytest.mark.slow)]
)
def test_from_a_folder_of_images_to_stock_diffusers(side, sizes, tmp_path):
    (tmp_path / "my_images").mkdir()
    for number, image in enumerate(pixels_and_labels()[0][:1000]):
        file = tmp_path / "my_images" / f"{number:04}.png"
        Image.fromarray(image[0].numpy()).resize((side, side), Image.Resampling.BICUBIC).save(file)
    journey(play, tmp_path, sizes)
    runs = tmp_path / "runs" / "mine"
    (table,) = tmp_path.rglob("mine.csv")
    assert all(row in table.read_text() for row in ROWS)
    assert "<html" in table.with_suffix(".html").read_text()
    assert {folder.name for folder in (runs / "tracking").iterdir()} >= {
        "wandb",
        "tensorboard",
        "csv",
    }
    assert json.loads((runs / "tracking/wandb/dashboard.json").read_text())
    assert (tmp_path / "grid.png").exists()
    assert load_in_diffusers(tmp_path / "stock", 2) == (side, side)
