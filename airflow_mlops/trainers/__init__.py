"""What ``TrainOperator(trainer=...)`` takes. Importing this package imports no machine-learning library.

Trainers are plain JSON, so that a task can be mapped over them and they show in Airflow's pages. Each kind has a
module here whose ``fit`` does the work when the step runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

Serialization = Literal["skops", "cloudpickle"]


class SklearnTrainer(dict[str, Any]):
    """Trains a scikit-learn estimator; preprocessing is fitted with it and is part of the model.

    :param estimator: import path of the estimator's class, as in ``sklearn.linear_model.LogisticRegression``
    :param params: its keyword arguments
    :param preprocessing: import path of a function ``(numeric: list[str], categorical: list[str]) -> transformer``.
        Unless given, numbers are imputed (median) where the estimator takes no NaN and scaled unless it is made of
        trees, and text becomes codes for trees and one-hot columns of its 100 most frequent values for the rest
    :param name: what the candidate is called in MLflow; the class's name unless given
    :param trusted_types: types outside scikit-learn, NumPy and SciPy that the stored model may hold
    :param serialization: ``cloudpickle`` stores models that skops cannot, and can run code when they are loaded
    """

    def __init__(
        self,
        estimator: str,
        params: dict[str, Any] | None = None,
        *,
        preprocessing: str | None = None,
        name: str | None = None,
        trusted_types: Sequence[str] = (),
        serialization: Serialization = "skops",
    ) -> None:
        super().__init__(
            kind="sklearn",
            estimator=estimator,
            params=params or {},
            preprocessing=preprocessing,
            name=name,
            trusted_types=list(trusted_types),
            serialization=serialization,
        )


class FunctionTrainer(dict[str, Any]):
    """Trains with a function of your own, called as ``function(X, y, params=params, seed=seed)``.

    ``X`` is a pandas DataFrame of the features (float64, and text), ``y`` a NumPy array of the labels. It returns a
    fitted estimator with scikit-learn's interface that takes such a DataFrame and can be exported to ONNX.

    :param function: its import path, as in ``my_package.my_module:train``; the module must be importable where the
        step runs, as is one beside the DAG files
    :param params: any JSON, handed over as it is
    :param name: what the candidate is called in MLflow; the function's name unless given
    :param trusted_types: types outside scikit-learn, NumPy and SciPy that the stored model may hold
    :param serialization: ``cloudpickle`` stores models that skops cannot, and can run code when they are loaded
    """

    def __init__(
        self,
        function: str,
        params: dict[str, Any] | None = None,
        *,
        name: str | None = None,
        trusted_types: Sequence[str] = (),
        serialization: Serialization = "skops",
    ) -> None:
        super().__init__(
            kind="function",
            function=function,
            params=params or {},
            name=name,
            trusted_types=list(trusted_types),
            serialization=serialization,
        )


__all__ = ["FunctionTrainer", "SklearnTrainer"]
