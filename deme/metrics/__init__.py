"""Metrics: features, their statistics, distances between them, scores of prompts, the loss.

Here is what metrics are made of; each extractor and each score has a module of its own.
"""

from deme.metrics.bootstrap import resample_counts, resampled_means
from deme.metrics.denoising_loss import Triples, denoising_loss, fixed_triples, noised
from deme.metrics.features import FeatureExtractor, ImageNetwork
from deme.metrics.frechet import FrechetDistance
from deme.metrics.kernel import KernelDistance, kernel_distance
from deme.metrics.neighbours import KINDS, precision_recall
from deme.metrics.reference import SUBSET, Reference, measured, subset
from deme.metrics.shards import FeatureShards
from deme.metrics.statistics import Statistics
from deme.metrics.text_score import TextScore

__all__ = [
    "KINDS",
    "SUBSET",
    "FeatureExtractor",
    "FeatureShards",
    "FrechetDistance",
    "ImageNetwork",
    "KernelDistance",
    "Reference",
    "Statistics",
    "TextScore",
    "Triples",
    "denoising_loss",
    "fixed_triples",
    "kernel_distance",
    "measured",
    "noised",
    "precision_recall",
    "resample_counts",
    "resampled_means",
    "subset",
]
