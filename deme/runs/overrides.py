"""Values as they are typed behind `<key>=` on a command line that Hydra reads."""

import json
import os
import re
from collections.abc import Mapping

# what Hydra reads as the text that it is, without quotes
PLAIN = re.compile(
    r"(?!(?:null|true|false|inf|nan)$)[A-Za-z_/][\w./:@-]*", re.IGNORECASE | re.ASCII
)


def as_value(value: object) -> str:
    """Return what to type behind `<key>=`, for Hydra to read this value.

    A text or a path is a text, whatever it holds, in quotes where Hydra needs them. In these a
    backslash is written twice only before a quote. ${...} in a text refers to another key.

    >>> as_value(Path("my images, 2"))
    '"my images, 2"'
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) else _quoted(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(as_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{as_value(each)}' for key, each in value.items())}}}"
    return json.dumps(value)  # null, true, a number


def _quoted(text: str) -> str:
    escaped = re.sub(r'(\\*)"', r"\1\1\"", text)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f'"{escaped}{escaped[len(escaped) - trailing :]}"'
