"""Render the templates of a page. Every text is escaped; style and script are inlined."""

import base64
from collections.abc import Mapping
from functools import cache
from itertools import pairwise

import jinja2
from markupsafe import Markup

from deme.system import PACKAGE, duration

FOLDER = PACKAGE / "assets" / "page"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"minus": true_minus, "duration": duration}
    return environment


def render(template: str, context: Mapping[str, object]) -> str:
    """Return a page: the rendered template with style and script."""
    style, script = (Markup((FOLDER / name).read_text()) for name in ("style.css", "page.js"))
    return _environment().get_template(template).render(style=style, script=script, **context)


def true_minus(text: object) -> str:
    """Return a text with the hyphen before each negative number replaced by a minus sign."""
    parts = str(text).split("-")
    joined = parts[0]
    for before, after in pairwise(parts):
        is_sign = after[:1].isdigit() and not before[-1:].isalnum()
        joined += ("\N{MINUS SIGN}" if is_sign else "-") + after
    return joined


def data_url(content: bytes, kind: str) -> str:
    """Return a data URL with the content of a file. `kind`: its media type, such as image/png."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
