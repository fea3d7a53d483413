"""What is said of a data set in one line, and which data sets are mirrored."""

import pytest
import torch
import yaml
from PIL import Image

from deme.data import ImageData, InMemoryImages
from deme.data.image_folder import load_image_folder
from deme.system import conf_dir


def folder_of(place, sizes):
    """Write an image of random pixels for each (width, height, mode)."""
    place.mkdir()
    draw = torch.Generator().manual_seed(0)
    for number, (width, height, mode) in enumerate(sizes):
        pixels = torch.randint(256, (height, width, 3), generator=draw, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).convert(mode).save(place / f"{number:02}.png")
    return place


def test_a_folder_says_what_is_done_to_its_images(tmp_path):
    sizes = [(20, 10, "RGB")] * 6 + [(9, 12, "L")] * 3 + [(40, 30, "RGBA")]
    place = folder_of(tmp_path / "images", sizes)
    (place / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    data = load_image_folder(
        str(place), 8, 3, "lanczos", held_out_fraction=0.3, corrupt="skip", cache=tmp_path / "cache"
    )
    text = data.description
    assert f"{len(data.train)} training images, {len(data.held_out)} held out" in text
    for part in ("9 x 12 to 40 x 30", "7 RGB", "3 grey", "8 (lanczos)", "as RGB"):
        assert part in text, text
    assert "centre crop" in text
    assert "not mirrored" in text
    assert "1 left out" in text
    again = load_image_folder(  # from the cache
        str(place), 8, 3, "lanczos", held_out_fraction=0.3, corrupt="skip", cache=tmp_path / "cache"
    )
    assert again.description == text


@pytest.mark.parametrize(
    ("rules", "said", "not_said"),
    [
        ({"crop": "none"}, "both sides", "crop"),
        ({"crop": "random"}, "random positions", "both sides"),
        ({"random_flip": True}, "; mirrored", "not mirrored"),
    ],
)
def test_crops_and_mirrors_are_said(rules, said, not_said, tmp_path):
    place = folder_of(tmp_path / "images", [(12, 8, "L")] * 9)
    text = load_image_folder(str(place), 8, 1, held_out_fraction=0.4, **rules).description
    assert "stored in 12 x 8 pixels, 9 grey" in text
    assert said in text
    assert not_said not in text


def test_images_of_the_right_size_are_said_not_to_be_resized(tmp_path):
    place = folder_of(tmp_path / "images", [(8, 8, "L")] * 9)
    for channels, said in (
        (1, "9 grey: not resized, as grey;"),
        (3, "9 grey: not resized, as RGB;"),
    ):
        assert said in load_image_folder(str(place), 8, channels, held_out_fraction=0.4).description
    smaller = load_image_folder(str(place), 4, 1, held_out_fraction=0.4).description
    assert "shorter side resized to 4 (bicubic), centre crop, as grey" in smaller


def test_images_that_nothing_is_done_to():
    images = InMemoryImages(torch.zeros(3, 1, 4, 4, dtype=torch.uint8))
    text = ImageData(images, images).description
    assert "3 training images, 3 held out" in text
    assert "4 x 4 grey" in text


def test_only_options_of_known_data_sets_mirror():
    """Own images may be digits, letters, organs: what a mirror makes of them is for their owner."""
    options = {
        file.stem: yaml.safe_load(file.read_text()) or {} for file in conf_dir().glob("data/*.yaml")
    }
    mirrored = {name for name, option in options.items() if option.get("random_flip")}
    assert mirrored == {"cifar10", "coco", "laion_aesthetics"}
