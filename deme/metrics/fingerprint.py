"""Fingerprints of features: fixed random projections that identify a regenerated image."""

import math

import torch
from torch import Generator, Tensor

from deme.diffusion import generator
from deme.metrics.statistics import Statistics

FLOOR = 1e-6  # relative: the smallest standard deviation of a fingerprint, for constant images
LENGTH = 16  # numbers per image
TOLERANCE = 0.05  # root mean square difference of a fingerprint, in standard deviations over images
MOMENTS_TOLERANCE = 1e-4  # of mean and covariance, in the same unit
DRIFT_TOLERANCE = 5.0  # standard errors: 64 directions exceed it in one of 30,000 unaltered runs
DIRECTIONS = 64


def projection(name: str, dimension: int) -> Tensor:
    """Return the projections [dimension, LENGTH] of an extractor, float64, fixed by its name."""
    draw = generator("fingerprint", name, dimension)
    matrix = torch.randn(dimension, LENGTH, generator=draw, dtype=torch.float64)
    return matrix / math.sqrt(dimension)


def fingerprints(features: Tensor, name: str) -> Tensor:
    """Return the fingerprints [n, LENGTH], float32, of features [n, d]."""
    return (features.double() @ projection(name, features.shape[1])).float()


def moments_error(prints: Tensor, statistics: Statistics, name: str) -> float:
    """Return how far fingerprints and moments are apart, in standard deviations.

    A fingerprint is linear in the features, F = P^T x, so its mean is P^T m and its covariance
    P^T S P.
    """
    matrix = projection(name, len(statistics.mean))
    own = Statistics().update(prints)
    mean, covariance = matrix.T @ statistics.mean, matrix.T @ statistics.covariance @ matrix
    scale = covariance.diagonal().clamp_min(0).sqrt() + FLOOR * (1 + mean.abs())
    of_mean = ((own.mean - mean) / scale).abs().max()
    of_covariance = ((own.covariance - covariance) / torch.outer(scale, scale)).abs().max()
    return float(torch.maximum(of_mean, of_covariance))


def differences(again: Tensor, stored: Tensor, all_stored: Tensor) -> Tensor:
    """Return the root mean square difference of k images' fingerprints, [k].

    In standard deviations of `all_stored`.
    """
    scale = all_stored.double().std(0) + FLOOR * (1 + all_stored.double().mean(0).abs())
    return ((again.double() - stored.double()) / scale).square().mean(1).sqrt()


def drift(features: Tensor, statistics: Statistics, draw: Generator) -> float:
    """Return the largest distance, in standard errors, of a sample's mean from that of the moments.

    `features` [k, d] are compared in DIRECTIONS random directions: moments that were altered
    outside the span of the fingerprints differ there, so `draw` must be unpredictable.
    """
    directions = torch.randn(len(statistics.mean), DIRECTIONS, generator=draw, dtype=torch.float64)
    expected = directions.T @ statistics.mean
    spread = ((statistics.covariance @ directions) * directions).sum(0).clamp_min(0).sqrt()
    error = spread / math.sqrt(len(features)) + FLOOR * (1 + expected.abs())
    return float((((features.double() @ directions).mean(0) - expected) / error).abs().max())
