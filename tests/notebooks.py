"""Run a notebook, and what it shows, without what differs from size to size and machine to machine."""

import os
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "notebooks"
MASKS = {  # in this order
    "#": re.compile(r"\b[0-9a-f]{8,}\b"),  # hashes
    "verdict": re.compile(r"\b(better|worse|not resolved)\b( \(1 seed\))?"),
    "n": re.compile(r"[-+]?(\d[\d,]*\.?\d*(e[-+]?\d+)?|\bnan\b|\bNaN\b)"),
    " ": re.compile(r"[\s\u2500-\u257f]+"),  # and the lines of a table
}


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def executed(name, folder, **environment):
    """The notebook after it ran in a folder, with these environment variables."""
    notebook = read(name)
    for cell in notebook.cells:
        cell.pop("outputs", None) if cell.cell_type == "markdown" else cell.update(outputs=[])
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=1800, resources=place).execute(env=env)
    return notebook


def outputs(notebook):
    """(number of the cell, kind, texts by media type) of each output; one text for each stream."""
    found = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                key = (number, output.name)
                if found and found[-1][:2] == key:
                    found[-1][2]["text/plain"] += output.text
                else:
                    found.append((*key, {"text/plain": output.text}))
            else:
                found.append((number, output.output_type, dict(output.get("data", output))))
    return found


def words(text):
    """A text without numbers, verdicts, hashes and the widths of columns."""
    for mask, pattern in MASKS.items():
        text = pattern.sub(mask, text)
    return text.strip()


def shown(notebook):
    """What `outputs` finds: of each text its words, and of each picture that it is one."""
    return [
        (cell, kind, {m: "" if m.startswith("image") else words(t) for m, t in data.items()})
        for cell, kind, data in outputs(notebook)
    ]


def kinds(notebook):
    return [(cell, kind, sorted(data)) for cell, kind, data in outputs(notebook)]
