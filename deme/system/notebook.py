"""A status line in a Jupyter notebook: the current step and, at the end, its duration."""

import sys
import time

from deme.system.units import duration

SECONDS_BETWEEN_UPDATES = 0.5


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook, whose standard error is no terminal."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class StatusLine:
    """A line below a notebook cell that is updated in place."""

    def __init__(self, name: str) -> None:
        from IPython.display import display

        self.name, self.began, self.updated = name, time.monotonic(), 0.0
        self._handle = display(_plain(f"{name} ..."), raw=True, display_id=True)

    def show(self, text: str) -> None:
        """Replace the text, at most twice a second."""
        now = time.monotonic()
        if now - self.updated >= SECONDS_BETWEEN_UPDATES:
            self.updated = now
            self._write(f"{self.name}: {text}")

    def end(self, what: str) -> None:
        """Replace the text by the outcome and the duration."""
        self._write(f"{self.name}: {what} {duration(time.monotonic() - self.began)}")

    def _write(self, text: str) -> None:
        self._handle.update(_plain(text), raw=True)


def _plain(text: str) -> dict[str, str]:
    return {"text/plain": text}
