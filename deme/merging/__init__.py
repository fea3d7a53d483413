"""Merging finetuned copies of one model in parameter space. Sees named tensors, never a model."""
