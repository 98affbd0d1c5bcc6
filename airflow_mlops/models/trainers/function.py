"""Fit a model with a user-defined function."""

from __future__ import annotations

import inspect
import os
from importlib.util import find_spec

from airflow_mlops.core import imports
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.models.trainers.base import FittedModel, TrainingData, TrainingRun
from airflow_mlops.models.trainers.returned import fitted
from airflow_mlops.models.trainers.spec import FunctionTrainerSpec


def fit(spec: FunctionTrainerSpec, data: TrainingData, seed: int, run: TrainingRun | None = None) -> FittedModel:
    """Call the user's function, which returns a fitted model, see :mod:`airflow_mlops.models.trainers.returned`.

    :param spec: the trainer, with the import path of the function
    :param data: features and labels of the rows to train on
    :param seed: seed that is passed to the function
    :param run: not used
    :raises SpecError: the function does not exist, or does not have the signature ``(X, y, *, params, seed)`` or, if
        the rows have weights, ``(X, y, *, params, seed, sample_weight)``
    :raises TrainingError: the function raises an exception, or does not return a fitted model
    :raises ModelFormatError: the model cannot be exported to ONNX
    """
    if find_spec("tensorflow") is None:
        # Keras uses TensorFlow by default.
        os.environ.setdefault("KERAS_BACKEND", "torch")
    function = imports.load(spec.function, "function")
    if not callable(function):
        raise SpecError(f"{spec.function!r} is not a function. Set `function` to the import path of a function.")
    options = {"params": spec.params, "seed": seed}
    why = ""
    if data.weights is not None:
        options["sample_weight"] = data.weights
        why = ", which it needs because the rows of the training set have weights (Decay, `sample_weight` or `class_weight`)"
    try:
        inspect.signature(function).bind(data.frame, data.labels, **options)
    except TypeError as error:
        raise SpecError(
            f"Function {spec.function!r} does not have the signature (X, y, *, {', '.join(options)}){why}: {error}. Change "
            "the function's signature."
        ) from None
    try:
        returned = function(data.frame, data.labels, **options)
    except Exception as error:
        raise TrainingError(f"Function {spec.function!r} raised {type(error).__name__}: {error}") from error
    return fitted(
        returned,
        spec,
        data,
        name=spec.name or function.__name__,
        params={"function": spec.function, **spec.params},
        sources={spec.function: function},
    )
