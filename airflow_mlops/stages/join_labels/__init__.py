"""The stage ``join_labels``, which joins labels to predictions."""
