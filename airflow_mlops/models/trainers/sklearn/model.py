"""A fitted scikit-learn estimator that can predict, be explained, be exported to ONNX and be stored in MLflow."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from airflow_mlops.core.contract import Precision
from airflow_mlops.core.errors import ModelFormatError, TrainingError, one_line
from airflow_mlops.core.isolation import no_warnings, without
from airflow_mlops.models.installed import without_check_of_requirements
from airflow_mlops.models.onnx import double, histograms
from airflow_mlops.models.onnx.ebm import to_onnx as ebm_to_onnx
from airflow_mlops.models.onnx.naming import name_inputs
from airflow_mlops.models.onnx.serialised import serialised
from airflow_mlops.models.onnx.svm import multiply_kernels
from airflow_mlops.models.onnx.trees import split_forests
from airflow_mlops.models.threshold import threshold, without_threshold
from airflow_mlops.models.trainers.base import TrainingData
from airflow_mlops.models.trainers.sklearn import ebm, linear
from airflow_mlops.models.trainers.sklearn.preprocessing import nearest_neighbours
from airflow_mlops.models.trainers.spec import TrainerSpec

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import Model
    from numpy.typing import NDArray

    from airflow_mlops.models.explanation import Explanation

_TRUSTED = ("sklearn.", "numpy.", "scipy.", "interpret.glassbox.")


class SklearnModel:
    """A fitted scikit-learn estimator that takes a DataFrame of the features.

    :param estimator: the fitted estimator
    :param data: the training data
    :param name: name of the model in MLflow
    :param params: the training parameters that are logged to MLflow
    :param sources: the classes and functions that the model was trained with, by import path
    :param spec: the trainer
    :param complete: whether ``data`` has the features of all rows to which the estimator was fitted. Otherwise, no
        contributions of features to a linear model are stored, because they are relative to the means of all rows
    :raises TrainingError: the estimator was fitted to classes that differ from the labels of the training set, or to
        several labels
    """

    def __init__(
        self,
        estimator: Any,
        data: TrainingData,
        *,
        name: str,
        params: dict[str, Any],
        sources: dict[str, Any],
        spec: TrainerSpec,
        complete: bool = True,
    ) -> None:
        self.estimator = estimator
        self.name = name
        self.params = params
        self.sources = sources
        self.spec = spec
        self.task = data.task
        self.classes = data.classes
        self.packages = ["scikit-learn", "scipy", "skops" if spec.serialization == "skops" else "cloudpickle"]
        # After a GridSearchCV or a similar search, only the best estimator predicts.
        self._best = getattr(estimator, "best_estimator_", estimator)
        if ebm.is_ebm(self._best):
            self.packages.append(ebm.PACKAGE)
        self._check_classes(data)
        # The terms are stored with the model. Scoring computes attributions from the stored terms.
        self._terms = linear.terms(self._best, data) if complete else None

    def _check_classes(self, data: TrainingData) -> None:
        if self.task == "regression":
            return
        classes = getattr(self.estimator, "classes_", data.classes)
        if isinstance(classes, list) and all(isinstance(each, np.ndarray) for each in classes):
            self._refuse_several_labels(len(classes))
        learned = np.asarray(classes).tolist()
        if learned != data.classes:
            raise TrainingError(
                f"{self.name} was fitted to the classes {learned}, but the training set has the labels {data.classes}. "
                "Fit it to the unchanged labels `y`."
            )

    def _refuse_several_labels(self, labels: int) -> NoReturn:
        raise TrainingError(
            f"{self.name} predicts {labels} labels for each row, but a training set has one label. Train one model for each label."
        )

    def predict(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        if self.task == "regression":
            found = np.asarray(self.estimator.predict(frame), dtype=np.float64)
            if found.ndim == 2 and found.shape[1] != 1:
                self._refuse_several_labels(found.shape[1])
            return found.reshape(-1, 1)
        return np.asarray(self.estimator.predict_proba(frame), dtype=np.float64)

    def threshold(self, positive: Any) -> float:
        return threshold(self._best, self.classes, positive, self.name)

    def labels(self, frame: pd.DataFrame) -> NDArray[Any] | None:
        return None if self.task == "regression" else np.asarray(self.estimator.predict(frame))

    def explain(self, data: TrainingData) -> Explanation | None:
        return ebm.explain(self._best, data) if ebm.is_ebm(self._best) else None

    def to_onnx(self, data: TrainingData, precision: Precision = "float32") -> bytes:
        if ebm.is_ebm(self._best):
            if precision != "float32":
                raise ModelFormatError(
                    f"{self.name} cannot be exported in {precision}, because the ONNX export of an EBM always computes in "
                    "float64."
                )
            return serialised(ebm_to_onnx(self._best, data.features))
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType

        doubles = precision == "float64"
        kinds = {"number": DoubleTensorType if doubles else FloatTensorType, "string": StringTensorType}
        inputs = [(feature.name, kinds[feature.kind]([None, 1])) for feature in data.features]
        estimator = _exportable(without_threshold(self._best), data)
        # ONNX Runtime's distance operator is twenty times as fast as the default loop over the rows.
        options: dict[Any, dict[str, Any]] = {kind: {"optim": "cdist"} for kind in nearest_neighbours()}
        if self.task != "regression":
            options[id(estimator)] = {"zipmap": False}
        try:
            # skl2onnx warns about its own internals.
            with no_warnings():
                converted = convert_sklearn(
                    estimator,
                    name=f"ONNX({type(estimator).__name__})",
                    initial_types=inputs,
                    options=options,
                    **_conversions(doubles=doubles),
                )
            named = name_inputs(multiply_kernels(split_forests(converted)), [name for name, _ in inputs])
            exported = serialised(named)
        except Exception as error:
            raise ModelFormatError(
                f"{self.name} cannot be exported to ONNX, which scoring needs: {one_line(error, 300)}. "
                "Use an estimator and transformers that skl2onnx supports "
                "(https://onnx.ai/sklearn-onnx/supported.html), and a separate encoder for each text column."
            ) from error
        return exported

    def save(self, folder: Path, model: Model, requirements: list[str], example: pd.DataFrame) -> None:
        import mlflow.sklearn

        trusted = self._trusted_types() if self.spec.serialization == "skops" else None
        # MLflow warns about the input example, and about the types that were checked above.
        with no_warnings(), without_check_of_requirements():
            mlflow.sklearn.save_model(
                self.estimator,
                str(folder),
                mlflow_model=model,
                serialization_format=self.spec.serialization,
                signature=model.signature,
                input_example=example,
                pip_requirements=requirements,
                skops_trusted_types=trusted,
            )
        if self._terms is not None:
            linear.write(folder, self._terms)

    def _trusted_types(self) -> list[str]:
        """Return the types in the model that skops loads only if they are listed as trusted.

        :raises ModelFormatError: the model cannot be stored by skops, or contains a type that neither this package nor
            the user's ``trusted_types`` trusts
        """
        skops = _import_skops()
        try:
            found = skops.get_untrusted_types(data=skops.dumps(self.estimator))
        except Exception as error:
            raise ModelFormatError(
                f"{self.name} cannot be stored by skops: {type(error).__name__}: {error}. Define the model's functions "
                "and classes at the top level of a module, or set serialization='cloudpickle', which can run code when the "
                "model is loaded."
            ) from error
        return trusted_types(found, self.spec.trusted_types, self.name)


def trusted_types(found: Sequence[str], named: Sequence[str], name: str) -> list[str]:
    """Return the types in a model that skops loads only if they are listed as trusted.

    :param found: the types that skops does not trust by default
    :param named: the types that the user trusts
    :param name: name of the model in errors
    :raises ModelFormatError: a type is trusted neither by this package nor by the user
    """
    if unknown := [kind for kind in found if not kind.startswith(_TRUSTED) and kind not in named]:
        raise ModelFormatError(
            f"{name} contains types that skops cannot load without your consent. Review the code of these types. "
            f"If the code is harmless, set trusted_types={sorted({*named, *unknown})!r} in the trainer."
        )
    return sorted(found)


def _conversions(*, doubles: bool) -> dict[str, Any]:
    """Return the arguments of ``convert_sklearn`` with this package's own converters."""
    own = [histograms.conversions(), *([double.conversions()] if doubles else [])]
    return {name: {kind: item for part in own for kind, item in part[name].items()} for name in own[0]}


def _exportable(estimator: Any, data: TrainingData) -> Any:
    """Return a pipeline that predicts like the estimator and that skl2onnx can convert.

    A pipeline is returned unchanged. For any other estimator, a first step is added that concatenates the inputs.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    if isinstance(estimator, Pipeline):
        return estimator
    join = ColumnTransformer([("features", FunctionTransformer(), list(data.frame.columns))])
    return make_pipeline(join.fit(data.frame.head(1)), estimator)


def _import_skops() -> Any:
    # skops imports scikit-learn's support for array libraries, which imports every installed array library. Importing
    # torch alone takes 3 s.
    with without("torch", "dask", "cupy", "jax"):
        return importlib.import_module("skops.io")
