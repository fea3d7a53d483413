"""Prompts next to the images of several models, all from the same noise."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from deme.report.style import style
from deme.system import single_line

SIDES = {True: 1.1, False: 2.2}  # inches of an image, small in pixels or not
WIDTH = 34  # characters of a prompt's line
LETTER = 0.07  # inches of a character
MAX_PROMPT = 600  # characters shown


@style()
def prompt_grid(
    texts: Sequence[str], images: Mapping[str, np.ndarray], phrases: Sequence[str | None] = ()
) -> Figure:
    """Return a figure with a line per prompt and a column per model: uint8 images [prompts, H, W,
    C] by the model's label.

    A prompt's phrase, the part that models often leave out, is printed below it.
    """
    _, height, width, _ = next(iter(images.values())).shape
    small, aspect = height < 128, width / height
    side, column = SIDES[small], LETTER * min(WIDTH, max(map(len, texts))) + 0.2
    size = column + side * aspect * len(images), (side + 0.08) * len(texts) + 0.4
    figure = Figure(figsize=size)
    axes = figure.subplots(
        len(texts),
        len(images) + 1,
        squeeze=False,
        gridspec_kw={"width_ratios": [column / (side * aspect), *[1] * len(images)]},
    )
    for row, text in enumerate(texts):
        axes[row][0].axis("off")
        phrase = phrases[row] if row < len(phrases) else None
        caption = _filled(text) + (f"\n\n{_filled(f'often lost: {phrase}')}" if phrase else "")
        axes[row][0].text(
            0,
            0.5,
            caption,
            va="center",
            ha="left",
            fontsize=8,
            parse_math=False,
            transform=axes[row][0].transAxes,
        )
        for place, (label, pictures) in enumerate(images.items(), start=1):
            axis, picture = axes[row][place], pictures[row]
            axis.axis("off")
            axis.imshow(
                picture.squeeze(),
                cmap="gray",
                vmin=0,
                vmax=255,
                interpolation="nearest" if small else "antialiased",
            )
            if row == 0:
                axis.set_title(textwrap.fill(label, 26), fontsize=9, parse_math=False)
    figure.subplots_adjust(
        left=0.02,
        right=0.995,
        top=1 - 0.34 / figure.get_figheight(),
        bottom=0.01,
        wspace=0.03,
        hspace=0.03,
    )
    return figure


def _filled(text: str) -> str:
    return textwrap.fill(single_line(text, MAX_PROMPT), WIDTH)


def side_by_side(pictures: np.ndarray, count: int, gap: int = 1) -> np.ndarray:
    """Return uint8 images [N / count, H, count (W + gap) - gap, C]: each `count` in a row."""
    total, height, width, channels = pictures.shape
    found = np.full((total // count, height, count * (width + gap) - gap, channels), 255, np.uint8)
    for place in range(count):
        left = place * (width + gap)
        found[:, :, left : left + width] = pictures[place::count]
    return found
