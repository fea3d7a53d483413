"""Folders of images as they lie on people's disks, by the commands that look at them, train on them and measure them."""

import re

import numpy as np
import pytest
from PIL import Image

from deme.report import figures
from deme.system import WorkFailed
from tests.pipeline.program import TINY_TRAIN, run


def pictures(folder, count, suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    for index, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{index:03}.{suffix}")
    return folder


def counts(text):
    found = re.search(r"data: ([\d,]+) training images, ([\d,]+) held out", text)
    return tuple(int(number.replace(",", "")) for number in found.groups())


@pytest.fixture
def mixed(tmp_path):
    """Forty pictures three times: PNG, TIFF, and behind a link; and hidden copies of some."""
    folder = tmp_path / "mixed"
    pictures(folder / "a", 40)
    pictures(folder / "a", 40, "tiff")
    pictures(folder / ".ipynb_checkpoints", 20)
    (folder / "b").symlink_to(pictures(tmp_path / "elsewhere", 40))
    return folder


def test_a_mixed_folder_is_counted_and_split_by_pictures(mixed, tmp_path):
    code, text = run(["doctor", "data=mixed/"], tmp_path)
    assert code == 0, text
    train, held_out = counts(text)
    assert train + held_out == 120
    assert train % 3 == held_out % 3 == 0
    assert held_out > 0
    assert "mixed: 120 images; left out are 20 hidden or temporary, such as .ipynb_" in text
    assert "80 of 120 images are exact copies" in text
    code, text = run(
        ["evaluate", "source=images", "inputs.images=mixed", "num_images=121"], tmp_path
    )
    assert code == 2
    assert "type: num_images=120" in text


def test_transparency_and_postscript(tmp_path):
    clear = tmp_path / "clear"
    clear.mkdir()
    for index in range(60):
        Image.new("RGBA", (8, 8), (7, 99, 200, 0)).save(clear / f"{index:03}.png")
    code, text = run(["doctor", "data=clear/"], tmp_path)
    assert code == 0, text
    assert "pixels of 60: mean 255.0, standard deviation 0.0" in text
    assert counts(text) == (60, 0)
    code, text = run(["train", "data=clear/", *TINY_TRAIN], tmp_path)  # one picture, sixty times
    assert code == 2
    assert "none of 60 images can be held out" in text
    assert "Traceback" not in text
    pictures(tmp_path / "eps", 59)
    (tmp_path / "eps" / "cat.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    code, text = run(["doctor", "data=eps/"], tmp_path)
    assert code == 4
    assert "eps/cat.png is not an image that can be read" in text
    code, text = run(["doctor", "data=eps/", "data.corrupt=skip"], tmp_path)
    assert code == 0, text
    assert sum(counts(text)) == 59
    assert "eps/cat.png" in text


def test_a_grid_that_is_no_png_is_named(tmp_path):
    grid = tmp_path / "grid.png"
    for data in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", b"", b"\x89PNG\r\n\x1a\n"):
        grid.write_bytes(data)
        with pytest.raises(WorkFailed, match=r"grid.png is not a PNG"):
            figures.picture(grid)
    Image.new("L", (4, 4), 9).save(grid)
    assert figures.picture(grid).size == (4, 4)
