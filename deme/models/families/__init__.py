"""The kinds of models that can be trained: one file for each, found by listing this folder."""
