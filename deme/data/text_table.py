"""Files of texts: lines (txt), tables with a header (csv, tsv), lists of JSON (json, jsonl)."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from deme.system import BadConfig, MissingInput, WorkFailed, did_you_mean, parse_json, read_text

SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".jsonl")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
MAX_BYTES = 1 << 31  # of a file of texts
CONVERT = "correct or convert that file; it must be UTF-8"
TEXTS = ("prompt", "caption", "text")  # names of the column of texts, where none is given


class Row(NamedTuple):
    """A row: its place in the file, for messages, and its values by column.

    The column of a list of texts is "".
    """

    place: str
    values: dict[str, object]


class Table(NamedTuple):
    """A file's rows, at least one, and the names of its columns: none for a list of texts."""

    columns: tuple[str, ...]
    rows: list[Row]


def chosen(columns: Sequence[str], given: str | None, option: str, where: str) -> str:
    """Return `given`, or the only column called prompt, caption or text.

    It is "" where there are no columns. Raises BadConfig with a list of the columns; `option` is
    the key that selects one.
    """
    if not columns:
        if given is not None:
            raise BadConfig(
                f"{where} is a list of texts without columns, but {option}={given}\n"
                f"type: {option}=null"
            )
        return ""
    listed = f"its columns: {', '.join(columns)}\ntype: {option}=<column>"
    if given is not None:
        if given not in columns:
            raise BadConfig(
                f"{where} has no column {given!r}; {did_you_mean(str(given), columns)}{listed}"
            )
        return given
    obvious = [name for name in columns if name.lower() in TEXTS]
    if len(obvious) != 1:
        raise BadConfig(f"{where}: it is not clear which column holds the texts; {listed}")
    return obvious[0]


def one_line(value: object, where: str) -> str:
    """Return a text with runs of white space replaced by one space, as CLIP's tokenizer does.

    None is "". Raises BadConfig for anything but a text.
    """
    if value is not None and not isinstance(value, str):
        raise BadConfig(f"{where}: a text is expected, got {value!r}")
    return " ".join((value or "").split())


def read_table(file: Path) -> Table:
    """Return the rows of a file.

    Raises BadConfig for another kind of file, WorkFailed for a damaged one, MissingInput if it is
    empty.
    """
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES or not file.is_file():
        raise BadConfig(f"{file} cannot be read as a file of texts; allowed: {', '.join(SUFFIXES)}")
    text = read_text(file, MAX_BYTES, CONVERT)
    if suffix in SEPARATORS:
        table = _separated(file, text, SEPARATORS[suffix])
    elif suffix == ".json":
        table = _listed(file, _entries(file, text))
    elif suffix == ".jsonl":
        lines = [(place, line) for place, line in _lines(text) if line.strip()]
        entries = [
            (place, parse_json(line, f"{file}, {place}", object, CONVERT)) for place, line in lines
        ]
        table = _listed(file, entries)
    else:
        table = _listed(file, _lines(text))
    if not table.rows:
        raise MissingInput(f"{file} holds no texts")
    return table


def _lines(text: str) -> list[tuple[str, str]]:
    """Return (place, line) up to the last line that is not blank."""
    lines = re.split(r"\r\n|\r|\n", text.rstrip()) if text.strip() else []
    return [(f"line {number}", line) for number, line in enumerate(lines, 1)]


def _entries(file: Path, text: str) -> list[tuple[str, object]]:
    found = parse_json(text, file, object, CONVERT) if text.strip() else []
    if not isinstance(found, list):
        raise BadConfig(
            f"{file} must hold a list, of texts or of objects; it holds {type(found).__name__}"
        )
    return [(f"entry {number}", entry) for number, entry in enumerate(found, 1)]


def _listed(file: Path, entries: Sequence[tuple[str, object]]) -> Table:
    """Return a table of entries (place, entry) that are all texts or all objects."""
    kind = str if entries and isinstance(entries[0][1], str) else dict
    rows: list[Row] = []
    columns: dict[str, None] = {}
    for place, entry in entries:
        if not isinstance(entry, kind):
            raise BadConfig(
                f"{file}, {place}: every entry must be a text, or every entry an object; "
                f"got {entry!r:.80}"
            )
        rows.append(Row(place, entry if isinstance(entry, dict) else {"": entry}))
        columns |= dict.fromkeys(entry if isinstance(entry, dict) else ())
    return Table(tuple(columns), rows)


def _separated(file: Path, text: str, separator: str) -> Table:
    """Read rows below a header. Quotation marks quote in csv and are text in tsv."""
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=separator,
        quoting=csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE,
        strict=True,
    )
    rows: list[Row] = []
    columns: list[str] = []
    line = 1
    try:
        for fields in reader:
            place, line = f"line {line}", reader.line_num + 1
            if not columns:
                columns = [name.strip() for name in fields]
            elif len(fields) > len(columns):
                raise WorkFailed(
                    f"{file}, {place}: {len(fields)} fields, the header has {len(columns)}\n"
                    "put a text that holds the separator in quotation marks (csv)"
                )
            elif fields:  # no blank line
                rows.append(Row(place, dict(zip(columns, fields, strict=False))))
    except csv.Error as error:
        raise WorkFailed(f"{file}, line {line}: not a table: {error}") from error
    return Table(tuple(columns), rows)
