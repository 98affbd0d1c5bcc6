"""The stage ``training_set``, which builds a training set from events, features and a label."""
