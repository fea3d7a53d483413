"""Images that are not square: what is cut off, what is said, and which sizes are refused."""

import numpy as np
import pytest
from PIL import Image

from deme.data.decode import Preprocessing
from deme.system import BadConfig


def stripes(width, height):
    """An image whose red grows to the right and whose green grows downwards, by 1 a pixel."""
    red, green = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([red, green, np.zeros_like(red)], 2).astype(np.uint8)
    return Image.fromarray(pixels)


def test_an_image_covers_the_size_and_is_cut_in_the_middle():
    wide = Preprocessing([20, 40])
    found = wide.apply(stripes(60, 20))  # as high as it shall be: 10 columns go on each side
    assert found.shape == (3, 20, 40)
    assert found[0, 0, 0] == 10
    assert found[0, 0, -1] == 49
    found = wide.apply(stripes(40, 30))
    assert found[1, 0, 0] == 5
    assert found[1, -1, 0] == 24
    assert Preprocessing([20, 40], crop="none").apply(stripes(10, 10)).shape == (3, 20, 40)


@pytest.mark.parametrize("stored", [(30, 20), (20, 30), (25, 25), (17, 41)])
def test_a_square_may_be_one_number_or_two(stored):
    one, other = Preprocessing(16), Preprocessing([16, 16])
    assert bool((one.apply(stripes(*stored)) == other.apply(stripes(*stored))).all())
    assert one.description == other.description  # the hash of the images stays the same
    assert one.summary(stored) == other.summary(stored)


def test_the_size_is_said_as_width_x_height():
    wide = Preprocessing([20, 40])
    assert "cover 40 x 20" in wide.description
    assert "cover 40 x 20" in wide.summary((100, 100))
    assert wide.summary((40, 20)).startswith("not resized")
    assert "40 x 20" in Preprocessing([20, 40], crop="none").summary((1, 1))


@pytest.mark.parametrize("size", [[1, 2, 3], [], [0, 4], 0, [4, -1]])
def test_other_sizes_are_refused(size):
    with pytest.raises(BadConfig, match=r"data\.size must be"):
        Preprocessing(size)
