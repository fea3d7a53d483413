"""One line in a Jupyter notebook: what a step is doing, and in the end how long it took."""

import sys
import time

from deme.system.units import duration

SECONDS_BETWEEN_UPDATES = 0.5


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook, whose standard error is no terminal."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class StatusLine:
    """A line below a notebook's cell that is replaced by the next one."""

    def __init__(self, name: str) -> None:
        from IPython.display import display

        self.name, self.began, self.updated = name, time.monotonic(), 0.0
        self._handle = display(_plain(f"{name} ..."), raw=True, display_id=True)

    def show(self, text: str) -> None:
        """Replace the line, at most twice a second."""
        now = time.monotonic()
        if now - self.updated >= SECONDS_BETWEEN_UPDATES:
            self.updated = now
            self._write(f"{self.name}: {text}")

    def end(self, what: str) -> None:
        """Replace the line by the last one: what became of the step, and how long it took."""
        self._write(f"{self.name}: {what} {duration(time.monotonic() - self.began)}")

    def _write(self, text: str) -> None:
        self._handle.update(_plain(text), raw=True)


def _plain(text: str) -> dict[str, str]:
    return {"text/plain": text}
