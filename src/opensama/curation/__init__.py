"""Curation: raw videos to training data. The stages are plain functions; `graph.py` runs them here or on a cluster."""
