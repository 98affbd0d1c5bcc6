"""User-defined metrics, which the tests name by import path."""

from __future__ import annotations

import numpy as np


def cost(y_true, y_pred):
    """A missed positive costs 5, a false alarm 1; the mean over the rows. Lower is better."""
    return float((5 * ((y_true == 1) & (y_pred == 0)) + ((y_true == 0) & (y_pred == 1))).mean())


def negative_brier(y_true, y_score):
    """Minus Brier's score. Higher is better."""
    return -float(np.square(y_true - y_score).mean())


def largest_probability(y_true, y_proba):
    """The mean of each row's largest probability; needs a probability for each class."""
    return float(y_proba.max(axis=1).mean())


def mean_absolute(y_true, y_pred):
    """The mean absolute error."""
    return np.abs(y_true - y_pred).mean()


def broken(y_true, y_pred):
    """Raises an error."""
    raise KeyError("no such column")


def undefined(y_true, y_pred):
    """Has no value."""
    return float("nan")


def a_text(y_true, y_pred):
    """Returns no number."""
    return "good"


def of_one_argument(y_true):
    """Takes one array only."""
    return 0.0


NOT_A_FUNCTION = 3
