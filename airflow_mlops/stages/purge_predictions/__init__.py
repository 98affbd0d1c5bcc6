"""The stage ``purge_predictions``."""
