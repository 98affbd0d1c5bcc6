"""The stage ``training_set``."""
