"""The columns that scoring adds to a dataset."""

from __future__ import annotations

# What scoring adds to a row.
PREDICTION_COLUMNS = ("prediction", "score", "model_name", "model_version", "scored_at", "latency_ms")
