"""Decouple-then-merge finetuning of pretrained diffusion models.

Ma et al., CVPR 2025, arXiv 2410.06664.

    import deme

    experts = deme.decouple("my_model/", "my_images/", num_ranges=4, num_steps=2000)
    merged = deme.merge(experts)

See docs/api.md.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deme.api import (
        BadConfig,
        DemeError,
        Difference,
        MissingInput,
        Result,
        WorkFailed,
        compare,
        decouple,
        doctor,
        evaluate,
        finetune,
        list_runs,
        load,
        merge,
        sample,
    )

__version__ = "0.1.0"
__all__ = [
    "BadConfig",
    "DemeError",
    "Difference",
    "MissingInput",
    "Result",
    "WorkFailed",
    "__version__",
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


def __getattr__(name: str) -> object:
    """Import the functions when they are first used: the command line starts without them."""
    if name not in __all__:
        raise AttributeError(f"module 'deme' has no attribute {name!r}")
    from deme import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted(__all__)
