"""The retraining policy: its settings, its decision, and the verdict on a window."""
