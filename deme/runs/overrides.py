"""Write values as Hydra overrides on a command line."""

import json
import os
import re
from collections.abc import Mapping

from hydra.core.override_parser.types import Quote, QuotedString

# texts that Hydra reads literally without quotes
PLAIN = re.compile(
    r"(?!(?:null|true|false|inf|nan)$)[A-Za-z_/][\w./:@-]*", re.IGNORECASE | re.ASCII
)


def as_value(value: object) -> str:
    """Return what to type behind `<key>=` for Hydra to read this value.

    A string or path stays a string, whatever it contains, and is quoted where Hydra needs it.
    Inside the quotes a backslash is doubled only before a quote. ${...} in a string refers to
    another key.

    >>> as_value(Path("my images, 2"))
    '"my images, 2"'
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        quoted = QuotedString(value, Quote.double).with_quotes()
        return value if PLAIN.fullmatch(value) else quoted
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(as_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{as_value(each)}' for key, each in value.items())}}}"
    return json.dumps(value)  # null, true, a number
