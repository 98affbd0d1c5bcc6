"""The stage ``search``, which searches for the best hyperparameters of a trainer."""
