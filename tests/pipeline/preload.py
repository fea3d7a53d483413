"""What the fork server imports: everything slow."""

import gc
import os

os.environ["OMP_NUM_THREADS"] = "1"

import warnings

warnings.simplefilter("ignore")

import diffusers  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch

import deme.cli.app
import deme.evaluation.measure
import deme.metrics.digit_classifier
import deme.report.model_card
import deme.runs.config
import deme.training.fit
import deme.training.module  # noqa: F401
from deme.models.loading import load_pretrained

load_pretrained("asset:digits_base")  # diffusers imports its models lazily
torch.set_num_threads(1)
gc.collect()
gc.freeze()  # so that no child's garbage collector visits, and copies, what is imported here
