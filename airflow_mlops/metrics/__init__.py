"""The metrics, their confidence intervals, and the comparison of two models by a metric."""
