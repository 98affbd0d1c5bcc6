"""The stage ``purge_predictions``, which deletes old predictions."""
