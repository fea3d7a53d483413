"""Pretrained diffusion models behind one interface."""
