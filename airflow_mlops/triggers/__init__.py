"""Triggers: what waits in the triggerer for deferred tasks."""
