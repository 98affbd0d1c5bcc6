"""Feast repositories: opening them, their sources, and the join of features to events."""
