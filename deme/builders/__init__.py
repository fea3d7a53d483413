"""Configuration to objects: builders/x.py makes what x/ holds."""

from deme.builders.architecture import with_fitting_unet
from deme.builders.averages import open_average, weigh_models
from deme.builders.checkpoints import base_folder, copy_other_parts, fold_of, open_plan
from deme.builders.compute import Compute, try_optimizer
from deme.builders.data import check_images, encode_images, load_data
from deme.builders.merging import build_merge, check_searched_models, load_merge_method
from deme.builders.method import build_method, write_loss_mass
from deme.builders.metrics import load_extractors, load_reference, load_scores
from deme.builders.models import Loaded, guided, load_experts, load_model
from deme.builders.prompts import check_sampler, generate_images, load_prompts
from deme.builders.ranges import build_ranges, range_of
from deme.builders.teachers import load_distilled, teacher_loader

__all__ = [
    "Compute",
    "Loaded",
    "base_folder",
    "build_merge",
    "build_method",
    "build_ranges",
    "check_images",
    "check_sampler",
    "check_searched_models",
    "copy_other_parts",
    "encode_images",
    "fold_of",
    "generate_images",
    "guided",
    "load_data",
    "load_distilled",
    "load_experts",
    "load_extractors",
    "load_merge_method",
    "load_model",
    "load_prompts",
    "load_reference",
    "load_scores",
    "open_average",
    "open_plan",
    "range_of",
    "teacher_loader",
    "try_optimizer",
    "weigh_models",
    "with_fitting_unet",
    "write_loss_mass",
]
