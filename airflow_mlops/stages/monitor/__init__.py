"""The stage ``monitor``."""
