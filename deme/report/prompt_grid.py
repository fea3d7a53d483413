"""Prompts beside the images of several models, all from the same noise."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

SIDE = 2.2  # inches of an image
TEXT = 2.4  # inches of the prompts' column
WIDTH = 34  # characters of a prompt's line


def prompt_grid(texts: Sequence[str], images: Mapping[str, np.ndarray], phrases: Sequence[str | None] = ()) -> Figure:
    """Return a figure with a line per prompt and a column per model: uint8 images [prompts, H, W, C] by the model's label.

    A prompt's phrase, the part that a model is known to lose, is told below it.
    """
    figure = Figure(figsize=(TEXT + SIDE * len(images), (SIDE + 0.08) * len(texts) + 0.4))
    axes = figure.subplots(
        len(texts), len(images) + 1, squeeze=False, gridspec_kw={"width_ratios": [TEXT / SIDE, *[1] * len(images)]}
    )
    for row, text in enumerate(texts):
        axes[row][0].axis("off")
        phrase = phrases[row] if row < len(phrases) else None
        told = textwrap.fill(text, WIDTH) + (f"\n\n{textwrap.fill(f'often lost: {phrase}', WIDTH)}" if phrase else "")
        axes[row][0].text(0, 0.5, told, va="center", ha="left", fontsize=8, transform=axes[row][0].transAxes)
        for column, (label, pictures) in enumerate(images.items(), start=1):
            axis, picture = axes[row][column], pictures[row]
            axis.axis("off")
            small = picture.shape[0] < 128
            axis.imshow(
                picture.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest" if small else "antialiased"
            )
            if row == 0:
                axis.set_title(textwrap.fill(label, 26), fontsize=9)
    figure.subplots_adjust(
        left=0.02, right=0.995, top=1 - 0.34 / figure.get_figheight(), bottom=0.01, wspace=0.03, hspace=0.03
    )
    return figure
