"""Grids of images by prompt."""

import numpy as np

from deme.report.prompt_grid import prompt_grid, side_by_side


def test_images_of_one_prompt_are_next_to_each_other():
    pictures = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 1), np.uint8)
    found = side_by_side(pictures, 3)
    assert found.shape == (2, 2, 11, 1)
    assert found[1, 0, :, 0].tolist() == [3, 3, 3, 255, 4, 4, 4, 255, 5, 5, 5]
    assert np.array_equal(side_by_side(pictures, 1), pictures)
    figure = prompt_grid(["a", "b"], {"one": found, "two": found})
    assert [axis.images[0].get_array().shape for axis in figure.axes if axis.images] == [
        (2, 11)
    ] * 4
