"""The stage ``join_labels``."""
