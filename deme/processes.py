"""Processes that help this one with its work. Standard library only."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def helpers(module: str, arguments: Sequence[Sequence[str]]) -> Iterator[list[int]]:
    """Run `python -m module <arguments>` once per arguments beside the block; wait for them, and stop them if it raises.

    The list that is yielded holds their exit codes after the block.
    """
    codes: list[int] = []
    started = [subprocess.Popen([sys.executable, "-m", module, *words]) for words in arguments]
    try:
        yield codes
    except BaseException:
        for process in started:
            process.terminate()
        raise
    finally:
        codes += [process.wait() for process in started]
