"""Generating images from seeds."""
