"""The stage ``refit``, which fits the winner of an evaluation again on all rows of its training set."""
