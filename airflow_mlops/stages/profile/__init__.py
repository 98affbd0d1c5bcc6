"""The stage ``profile``."""
