"""Run directories, suites, configuration, tracking. No torch here."""

from deme.runs.config import compose_stage, to_dict
from deme.runs.config_errors import config_errors, flattened, options
from deme.runs.identity import data_hash, identity_hash
from deme.runs.inputs import (
    check_format,
    content_hash,
    evaluation_config,
    found_weights,
    input_hash,
    is_run,
    load_yaml,
    read_status,
    weights_folder,
)
from deme.runs.node import BLOCKED
from deme.runs.objects import accepted_arguments, instantiate, instantiate_with, partial
from deme.runs.provenance import LIBRARIES
from deme.runs.run import Run, frozen_identity
from deme.runs.suite import Node, Suite

__all__ = [
    "BLOCKED",
    "LIBRARIES",
    "Node",
    "Run",
    "Suite",
    "accepted_arguments",
    "check_format",
    "compose_stage",
    "config_errors",
    "content_hash",
    "data_hash",
    "evaluation_config",
    "flattened",
    "found_weights",
    "frozen_identity",
    "identity_hash",
    "input_hash",
    "instantiate",
    "instantiate_with",
    "is_run",
    "load_yaml",
    "options",
    "partial",
    "read_status",
    "to_dict",
    "weights_folder",
]
