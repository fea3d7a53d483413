"""Measuring models: images, distances, scores, losses, audits."""
