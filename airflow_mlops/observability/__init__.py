"""Metrics of models: what is exported, and where to."""
