"""The training loop. The only package that imports pytorch_lightning."""
