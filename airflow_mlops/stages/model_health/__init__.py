"""The stage ``model_health``."""
