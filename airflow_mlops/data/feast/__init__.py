"""Feast repositories: opening and applying them, publishing their sources, and joining features to events."""
