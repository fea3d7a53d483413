"""Objectives for tests of searches: cheap functions of merge weights that count their calls and keep their own clock."""

import numpy as np


class Quadratic:
    """lowest + (w - optimum)' H (w - optimum) / 2 over `total` images; a fraction adds a bias. Each image takes 0.01 s of `clock`."""

    def __init__(
        self, optimum=(0.6, 0.1, 1.2, 0.45), curvature=None, total=100, stop_at=None, lowest=1.0
    ):
        self.optimum = np.array(optimum)
        self.curvature = np.eye(len(optimum)) if curvature is None else curvature
        self.total, self.stop_at, self.lowest = total, stop_at, lowest
        self.asked, self.clock = [], 0.0

    def called(self, weights, fraction):
        self.asked.append(tuple(weights))
        if len(self.asked) == self.stop_at:
            raise KeyboardInterrupt
        self.clock += 0.01 * self.num_images(fraction)

    def value(self, weights, fraction=1.0):
        self.called(weights, fraction)
        away = np.array(weights) - self.optimum
        return float(self.lowest + away @ self.curvature @ away / 2 + (1 - fraction))

    def gradient(self, weights):
        away = np.array(weights) - self.optimum
        return self.value(weights), (self.curvature @ away).tolist()

    def num_images(self, fraction=1.0):
        return round(self.total * fraction)


def curved(eigenvalues, seed):
    """Return a symmetric matrix with these eigenvalues and random axes."""
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))[0]
    return axes @ np.diag(eigenvalues) @ axes.T
