"""The stage ``reproduce``."""
