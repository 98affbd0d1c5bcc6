"""The retraining policy: settings, the decision about retraining, and the verdict on a window."""
