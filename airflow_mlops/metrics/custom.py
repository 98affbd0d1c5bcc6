"""Custom metrics: user-defined functions that a DAG names by their import path.

A custom metric takes two arrays of n rows and returns a number::

    def cost(y_true, y_pred):
        return float((10 * (y_true > y_pred) + (y_pred > y_true)).mean())

As in scikit-learn, the name of the second parameter decides whether the function receives predicted classes or
probabilities:

========== ============================ =================================== ===================
parameter  binary                       multiclass                          regression
========== ============================ =================================== ===================
``y_true`` 1 for the positive class,    position of the label among the     the label
           otherwise 0                  sorted classes
2nd        the predicted class, in the  the predicted class, in the same    the predicted value
           same form                    form
``y_score``, the positive class's       a probability for each class, shape the predicted value
``y_prob``, probability                 (n, k)
``y_proba``
========== ============================ =================================== ===================

Functions of ``sklearn.metrics`` that need no further argument can be used directly, such as
``sklearn.metrics:balanced_accuracy_score``. If the rows have weights (``sample_weight=`` of TrainOperator), the
function is called with the argument ``sample_weight``, an array of n numbers; a function without this parameter is
refused. The confidence interval of a custom metric comes from a bootstrap over rows, see
:func:`airflow_mlops.metrics.resampling.resample_rows`.
"""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core import imports
from airflow_mlops.core.errors import MetricError, SpecError, one_line
from airflow_mlops.metrics.catalog import is_custom

if TYPE_CHECKING:
    from airflow_mlops.metrics.rows import Rows

_SCORES = ("y_score", "y_prob", "y_proba")


@dataclass(frozen=True)
class CustomMetric:
    """A metric that a user-defined function computes.

    :param path: import path of the function, ``package.module:function``
    :param function: the imported function
    :param takes_scores: whether the function is called with probabilities instead of predicted classes
    :param takes_weights: whether the function has the parameter ``sample_weight``
    """

    path: str
    function: Callable[..., Any]
    takes_scores: bool
    takes_weights: bool = False

    def applies_to(self, rows: Rows) -> bool:
        """Return whether the function can be called with the predictions in ``rows``.

        A function that takes probabilities cannot be called if the model does not predict probabilities.
        """
        return rows.score is not None or not self.takes_scores

    def measure(self, rows: Rows) -> float:
        """Compute the metric.

        :raises MetricError: the function raises an exception, or does not return a finite number
        """
        value = self._call(rows)
        if not math.isfinite(value):
            raise MetricError(
                f"Custom metric {self.path!r} returned {value} on {len(rows):,} rows, but it must return a finite number."
            )
        return value

    def measure_or_nan(self, rows: Rows) -> float:
        """Compute the metric on a sample of rows. The metric may be undefined on a sample.

        :return: NaN if the sample has no rows or only one class, or if the function returns no finite number
        :raises MetricError: the function raises an exception, or does not return a number
        """
        counted = rows.truth if rows.weight is None else rows.truth[rows.weight > 0]
        if not len(counted) or (rows.task != "regression" and (counted == counted[0]).all()):
            return math.nan
        value = self._call(rows)
        return value if math.isfinite(value) else math.nan

    def require_weights(self) -> None:
        """Check that the function can be called for rows with weights.

        :raises SpecError: the function has no parameter ``sample_weight``
        """
        if not self.takes_weights:
            raise SpecError(
                f"Custom metric {self.path!r} has no parameter sample_weight, which it needs because the rows have weights "
                "(`sample_weight` of TrainOperator). Add the parameter to the function, or train without `sample_weight`."
            )

    def _call(self, rows: Rows) -> float:
        truth = rows.truth if rows.task == "regression" else rows.truth.astype(np.int64)
        if self.takes_scores:
            second = rows.score
        else:
            second = rows.predicted if rows.task == "regression" else rows.predicted.astype(np.int64)
        weights = {}
        if rows.weight is not None:
            self.require_weights()
            weights = {"sample_weight": rows.weight}
        try:
            value = self.function(truth, second, **weights)
        except Exception as error:
            raise MetricError(
                f"Custom metric {self.path!r} raised {one_line(error)}. Correct the function of this metric."
            ) from error
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value.item()
        if not isinstance(value, numbers.Real):
            raise MetricError(
                f"Custom metric {self.path!r} returned an object of type {type(value).__name__}, but it must return a number."
            )
        return float(value)


@lru_cache(maxsize=64)
def load(path: str) -> CustomMetric:
    """Import a custom metric.

    :param path: import path of the function, ``package.module:function``
    :raises SpecError: the function does not exist, or cannot be called with two arguments
    """
    function = imports.load(path, "metric")
    if not callable(function):
        raise SpecError(f"Custom metric {path!r} is not a function. Set `metric` to the import path of a function.")
    try:
        signature = inspect.signature(function)
        signature.bind(None, None)
    except TypeError as error:
        raise SpecError(
            f"Custom metric {path!r} does not have the signature (y_true, y_pred) or (y_true, y_score): {error}. Change "
            "the function's signature."
        ) from None
    except ValueError:
        # Compiled functions may have no signature.
        return CustomMetric(path, function, takes_scores=False)
    second = list(signature.parameters)[1] if len(signature.parameters) > 1 else ""
    return CustomMetric(
        path, function, takes_scores=second in _SCORES, takes_weights="sample_weight" in signature.parameters
    )


def source_hashes(paths: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of the source file of each custom metric, by import path of the metric.

    :param paths: names of metrics; names other than import paths of custom metrics are ignored
    """
    return {path: imports.source_hash(load(path).function) for path in filter(is_custom, paths)}
