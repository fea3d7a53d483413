"""Files, processes, errors and the console: what every layer stands on.

Nothing here imports torch but tensors.py and hugging_face.py, which are imported by their paths.
"""

from deme.system.console import Bar, log_to_file, log_to_terminal, logger, print_result, progress
from deme.system.errors import (
    BadConfig,
    DemeError,
    MissingInput,
    Preempted,
    Stopped,
    WorkFailed,
    did_you_mean,
    out_of_memory,
)
from deme.system.files import (
    append_line,
    atomic,
    is_weights,
    link_weights,
    read_about,
    read_json,
    read_jsonl,
    same_content,
    sha256,
    sha256_text,
    write_folder,
    write_json,
    write_jsonl,
    write_text,
)
from deme.system.paths import (
    ASSET,
    DATASETS,
    HUB,
    PACKAGE,
    cache_folder,
    conf_dir,
    locate,
    locate_suite,
)
from deme.system.processes import helpers, world

__all__ = [
    "ASSET",
    "DATASETS",
    "HUB",
    "PACKAGE",
    "BadConfig",
    "Bar",
    "DemeError",
    "MissingInput",
    "Preempted",
    "Stopped",
    "WorkFailed",
    "append_line",
    "atomic",
    "cache_folder",
    "conf_dir",
    "did_you_mean",
    "helpers",
    "is_weights",
    "link_weights",
    "locate",
    "locate_suite",
    "log_to_file",
    "log_to_terminal",
    "logger",
    "out_of_memory",
    "print_result",
    "progress",
    "read_about",
    "read_json",
    "read_jsonl",
    "same_content",
    "sha256",
    "sha256_text",
    "world",
    "write_folder",
    "write_json",
    "write_jsonl",
    "write_text",
]
