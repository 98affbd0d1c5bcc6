"""The stage ``promote``."""
