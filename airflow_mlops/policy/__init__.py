"""When to ask for retraining."""
