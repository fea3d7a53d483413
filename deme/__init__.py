"""Decouple-then-merge finetuning of pretrained diffusion models.

Ma et al., CVPR 2025, arXiv 2410.06664.
"""

__version__ = "0.1.0"
