"""The stage ``validate``."""
