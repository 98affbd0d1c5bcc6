"""The stage ``predictions``."""
