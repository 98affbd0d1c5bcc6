"""Trainers of scikit-learn estimators, and of other estimators with the same interface."""
