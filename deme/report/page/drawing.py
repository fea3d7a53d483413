"""Figures as SVG inside a page; text and axes have the colour of the page's text."""

import hashlib
import re

from markupsafe import Markup, escape
from matplotlib.figure import Figure

from deme.report.figures import svg
from deme.report.style import COLOURS, INK, SERIES

PAGE_COLOURS = {  # colours of figures and their variables in the style sheet
    INK: "currentColor",
    "#000000": "currentColor",
    COLOURS["better"]: "var(--better)",
    COLOURS["worse"]: "var(--worse)",
    COLOURS["not resolved"]: "var(--soft)",
    **{colour: f"var(--series-{index})" for index, colour in enumerate(SERIES)},
}


def inline_svg(figure: Figure, label: str) -> Markup:
    """Return a figure as an <svg> element with a label for screen readers.

    Element ids are unique on the page; the width is at most that of the page.
    """
    figure.patch.set_alpha(0.0)
    text = svg(figure).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    name = hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>f{name}-", text)
    for colour, shown in PAGE_COLOURS.items():
        text = text.replace(colour, shown)
    width = float(figure.get_size_inches()[0]) * 72
    root, rest = text.split(">", 1)
    root = re.sub(r' (?:width|height)="[^"]*"', "", root)
    shown = f'role="img" aria-label="{escape(label)}" class="figure" style="max-width:{width}pt"'
    return Markup(f"{root} {shown}>{rest}")
