"""The training curve as metrics.jsonl, one line per logged step; equal lines after a kill and a resume."""

import json
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger

from deme.system.files import append_line, read_jsonl, write_jsonl


class JsonlLogger(Logger):
    """Append {"step": ..., name: value, ...} to a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._last: int | None = None

    @property
    def name(self) -> str:
        return "jsonl"

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {name: value for name, value in metrics.items() if name != "epoch"}
        if row and step != self._last:  # a step has one line
            self._last = step
            append_line(self.path, json.dumps({"step": step, **row}))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """config.yaml holds them."""

    def rewind(self, step: int) -> None:
        """Forget what was logged at or after `step`: the resumed run logs it again."""
        rows = read_jsonl(self.path)
        if rows:
            write_jsonl(self.path, [row for row in rows if row["step"] < step])
