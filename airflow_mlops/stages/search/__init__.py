"""The stage ``search``, which searches for the best parameters of a trainer."""
