"""The stage ``training_set``, which builds training sets."""
