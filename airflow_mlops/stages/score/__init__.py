"""The stage ``score``."""
