"""The functions of `import deme`: each runs a command and returns its result.

A call makes a run directory. A call that was made before, with the same settings, returns the
finished run at once.
"""

from deme.api.actions import compare, decouple, evaluate, finetune, load, merge
from deme.api.listing import list_runs
from deme.api.pictures import doctor, sample
from deme.api.result import Result
from deme.report.statistics import Difference
from deme.system import BadConfig, DemeError, MissingInput, WorkFailed

__all__ = [
    "BadConfig",
    "DemeError",
    "Difference",
    "MissingInput",
    "Result",
    "WorkFailed",
    "compare",
    "decouple",
    "doctor",
    "evaluate",
    "finetune",
    "list_runs",
    "load",
    "merge",
    "sample",
]
