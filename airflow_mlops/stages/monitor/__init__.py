"""The stage ``monitor``, which compares a window of predictions with training and decides about retraining."""
