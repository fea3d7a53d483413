"""Metrics: features, their statistics, distances between them, scores of prompts, the loss."""
