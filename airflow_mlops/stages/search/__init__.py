"""The stage ``search``."""
