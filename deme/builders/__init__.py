"""Configuration to objects: builders/x.py makes what x/ holds."""
