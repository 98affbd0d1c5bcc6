"""Fit a model: a scikit-learn estimator by import path, or a function of the user."""
