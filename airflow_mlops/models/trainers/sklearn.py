"""scikit-learn, and what has its interface: build the pipeline, fit it, export it, store it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core import imports
from airflow_mlops.core.contract import Precision
from airflow_mlops.core.errors import ModelFormatError, SpecError, TrainingError, one_line
from airflow_mlops.core.isolation import no_warnings, without
from airflow_mlops.models.onnx.double import conversions
from airflow_mlops.models.onnx.ebm import to_onnx as ebm_to_onnx
from airflow_mlops.models.onnx.svm import multiply_kernels
from airflow_mlops.models.onnx.trees import split_forests
from airflow_mlops.models.trainers import ebm
from airflow_mlops.models.trainers.base import TrainingData, TrainingRun
from airflow_mlops.models.trainers.spec import SklearnTrainerSpec, TrainerSpec

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import Model
    from numpy.typing import NDArray

    from airflow_mlops.models.explanation import Explanation

MAX_CATEGORIES = 100
_TRUSTED = ("sklearn.", "numpy.", "scipy.", "interpret.glassbox.")


def fit(spec: SklearnTrainerSpec, data: TrainingData, seed: int, run: TrainingRun | None = None) -> SklearnModel:
    """Fit the estimator behind its preprocessing; one that explains itself by the features gets them as they are.

    :raises SpecError: there is no such estimator, or it does not take these parameters or this preprocessing
    :raises TrainingError: it is of the wrong kind for the task, or cannot be fitted to the data
    """
    from sklearn.pipeline import make_pipeline

    estimator = _estimator(spec, data, seed)
    params = estimator.get_params(deep=False)
    sources: dict[str, Any] = {spec.estimator: type(estimator)}
    prepared = spec.preprocessing or "by column type"
    if ebm.is_ebm(estimator):
        if spec.preprocessing:
            raise SpecError(
                f"{spec.estimator} takes numbers, text and missing values as they are, so that it can be read: leave "
                "preprocessing out."
            )
        ebm.set_types(estimator, data.features)
        pipeline, prepared = estimator, "none"
    elif spec.preprocessing:
        make = imports.load(spec.preprocessing, "preprocessing")
        sources[spec.preprocessing] = make
        pipeline = make_pipeline(_user_preprocessing(make, spec.preprocessing, data), estimator)
    else:
        pipeline = make_pipeline(preprocessing(estimator, data), estimator)
    try:
        with ebm.quietly():
            pipeline.fit(data.frame, data.labels)
    except Exception as error:
        raise TrainingError(
            f"{spec.estimator} could not be fitted to {len(data.frame):,} rows of {len(data.features)} features: "
            f"{type(error).__name__}: {error}"
        ) from error
    return SklearnModel(
        pipeline,
        data,
        name=spec.name or type(estimator).__name__,
        params={"estimator": spec.estimator, "preprocessing": prepared, **params},
        sources=sources,
        spec=spec,
    )


def _estimator(spec: SklearnTrainerSpec, data: TrainingData, seed: int) -> Any:
    from sklearn.base import is_classifier, is_regressor

    kind = imports.load(spec.estimator, "estimator")
    try:
        estimator = kind(**spec.params)
        takes_seed = "random_state" in estimator.get_params(deep=False) and "random_state" not in spec.params
    except (TypeError, AttributeError) as error:
        raise SpecError(f"The estimator {spec.estimator!r} cannot be made with {spec.params}: {error}.") from None
    if takes_seed:
        estimator.set_params(random_state=seed)
    if data.task == "regression":
        if not is_regressor(estimator):
            raise TrainingError(f"{spec.estimator} is no regressor, and {data.label!r} is to be predicted as a number.")
    elif not is_classifier(estimator):
        raise TrainingError(f"{spec.estimator} is no classifier, and {data.label!r} has classes.")
    elif not hasattr(estimator, "predict_proba"):
        raise TrainingError(
            f"{spec.estimator} has no predict_proba with these parameters, so it gives no score: wrap it in "
            "sklearn.calibration.CalibratedClassifierCV (through FunctionTrainer), or take another."
        )
    return estimator


def _user_preprocessing(make: Any, path: str, data: TrainingData) -> Any:
    numeric, categorical = _columns(data)
    try:
        return make(numeric, categorical)
    except Exception as error:
        raise TrainingError(f"Preprocessing {path!r} raised {type(error).__name__}: {error}") from error


def preprocessing(estimator: Any, data: TrainingData) -> Any:
    """A transformer of the features, made from their kinds and from what ``estimator`` is like.

    Trees get codes for text, and -1 for text that was never seen; the rest gets scaled numbers and one column for each
    of the most frequent values, all 0 for any other text.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

    trees = _is_tree(estimator)
    numeric, categorical = _columns(data)
    steps: list[Any] = []
    if not _takes_nan(estimator):
        steps.append(SimpleImputer(strategy="median"))
    if not trees:
        steps.append(StandardScaler())
    parts: list[tuple[str, Any, list[str]]] = []
    if numeric:
        # "passthrough" alone would not join its columns in ONNX.
        parts.append(("numbers", make_pipeline(*steps) if steps else FunctionTransformer(), numeric))
    for name in categorical:
        # One encoder a column: skl2onnx joins columns that share one, text and all.
        encoder = (
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
            if trees
            else OneHotEncoder(categories=[_frequent(data.frame[name])], handle_unknown="ignore")
        )
        parts.append((f"text {name}", encoder, [name]))
    return ColumnTransformer(parts, sparse_threshold=0.3 if _takes_sparse(estimator) else 0)


def _columns(data: TrainingData) -> tuple[list[str], list[str]]:
    numeric = [feature.name for feature in data.features if feature.kind != "string"]
    return numeric, [feature.name for feature in data.features if feature.kind == "string"]


def _frequent(values: pd.Series[str]) -> NDArray[Any]:
    # OneHotEncoder's own max_categories cannot be exported to ONNX. Ties are broken by name, to be repeatable.
    counts = values.value_counts()
    chosen = sorted(counts.index, key=lambda value: (-counts[value], value))[:MAX_CATEGORIES]
    return np.array(sorted(chosen), dtype=object)


def _is_tree(estimator: Any) -> bool:
    from sklearn import ensemble, tree

    families = (
        "BaggingClassifier BaggingRegressor ExtraTreesClassifier ExtraTreesRegressor GradientBoostingClassifier "
        "GradientBoostingRegressor HistGradientBoostingClassifier HistGradientBoostingRegressor "
        "RandomForestClassifier RandomForestRegressor"
    )
    kinds = (tree.BaseDecisionTree, *(getattr(ensemble, name) for name in families.split()))
    if isinstance(estimator, (ensemble.BaggingClassifier, ensemble.BaggingRegressor)):
        return estimator.estimator is None or _is_tree(estimator.estimator)
    return isinstance(estimator, kinds)


def _takes_nan(estimator: Any) -> bool:
    # Other trees of scikit-learn take NaN too, but their export to ONNX does not know the way a NaN went.
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    return isinstance(estimator, (HistGradientBoostingClassifier, HistGradientBoostingRegressor))


def _nearest() -> tuple[type, ...]:
    from sklearn import neighbors

    return (
        neighbors.KNeighborsClassifier,
        neighbors.KNeighborsRegressor,
        neighbors.RadiusNeighborsClassifier,
        neighbors.RadiusNeighborsRegressor,
    )


def _takes_sparse(estimator: Any) -> bool:
    from sklearn.utils import get_tags

    # Neighbours keep the rows they were fitted to, and skl2onnx writes no sparse ones.
    return bool(get_tags(estimator).input_tags.sparse) and not isinstance(estimator, _nearest())


class SklearnModel:
    """A fitted scikit-learn estimator that takes a DataFrame of the features."""

    def __init__(
        self,
        estimator: Any,
        data: TrainingData,
        *,
        name: str,
        params: dict[str, Any],
        sources: dict[str, Any],
        spec: TrainerSpec,
    ) -> None:
        self.estimator = estimator
        self.name = name
        self.params = params
        self.sources = sources
        self.spec = spec
        self.task = data.task
        self.packages = ["scikit-learn", "scipy", "skops" if spec.serialization == "skops" else "cloudpickle"]
        # The best of a search stands for it.
        self._best = getattr(estimator, "best_estimator_", estimator)
        if ebm.is_ebm(self._best):
            self.packages.append(ebm.PACKAGE)
        self._check(data)

    def _check(self, data: TrainingData) -> None:
        if self.task == "regression":
            return
        learned = np.asarray(getattr(self.estimator, "classes_", data.classes)).tolist()
        if learned != data.classes:
            raise TrainingError(
                f"{self.name} learned the classes {learned}, the labels are {data.classes}: "
                "fit it to the labels as they are."
            )

    def predict(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        if self.task == "regression":
            return np.asarray(self.estimator.predict(frame), dtype=np.float64).reshape(-1, 1)
        return np.asarray(self.estimator.predict_proba(frame), dtype=np.float64)

    def explain(self, data: TrainingData) -> Explanation | None:
        return ebm.explain(self._best, data) if ebm.is_ebm(self._best) else None

    def to_onnx(self, data: TrainingData, precision: Precision = "float32") -> bytes:
        if ebm.is_ebm(self._best):
            if precision != "float32":
                raise ModelFormatError(f"{self.name} has one export, which adds up in float64: there is no other.")
            return ebm_to_onnx(self._best, data.features).SerializeToString()
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType

        double = precision == "float64"
        kinds = {"number": DoubleTensorType if double else FloatTensorType, "string": StringTensorType}
        inputs = [(feature.name, kinds[feature.kind]([None, 1])) for feature in data.features]
        estimator = _exportable(self._best, data)
        # Distances as one operator of ONNX Runtime's own: a loop over the rows takes twenty times as long.
        options: dict[Any, dict[str, Any]] = {kind: {"optim": "cdist"} for kind in _nearest()}
        if self.task != "regression":
            options[id(estimator)] = {"zipmap": False}
        try:
            # skl2onnx warns about versions and types that make no difference to the result.
            with no_warnings():
                converted = convert_sklearn(
                    estimator,
                    name=f"ONNX({type(estimator).__name__})",
                    initial_types=inputs,
                    options=options,
                    **(conversions() if double else {}),
                )
            exported: bytes = multiply_kernels(split_forests(converted)).SerializeToString()
        except Exception as error:
            raise ModelFormatError(
                f"{self.name} cannot be exported to ONNX, which scoring needs: {one_line(error, 300)}. "
                "Take an estimator and transformers that skl2onnx supports "
                "(https://onnx.ai/sklearn-onnx/supported.html), one text column per encoder."
            ) from error
        return exported

    def save(self, folder: Path, model: Model, requirements: list[str], example: pd.DataFrame) -> None:
        import mlflow.sklearn

        trusted = self._trusted_types() if self.spec.serialization == "skops" else None
        # MLflow warns about the types that were reviewed above, and about integer columns, of which there are none.
        with no_warnings():
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

    def _trusted_types(self) -> list[str]:
        """The types in the model that skops does not know, if all of them may be trusted.

        :raises ModelFormatError: naming those the author must name
        """
        skops = _skops()
        try:
            found = skops.get_untrusted_types(data=skops.dumps(self.estimator))
        except Exception as error:
            raise ModelFormatError(
                f"{self.name} cannot be stored by skops: {type(error).__name__}: {error}. Use functions and classes "
                "that are defined at the top of a module, or ask for serialization='cloudpickle', which can run "
                "code when the model is loaded."
            ) from error
        named = set(self.spec.trusted_types)
        if unknown := [kind for kind in found if not kind.startswith(_TRUSTED) and kind not in named]:
            raise ModelFormatError(
                f"{self.name} holds types that nobody has reviewed: read their code and, if they are harmless, "
                f"add trusted_types={sorted([*named, *unknown])!r} to the trainer."
            )
        return sorted(found)


def _exportable(estimator: Any, data: TrainingData) -> Any:
    """What skl2onnx converts: the estimator, behind a step that joins the inputs where there is none."""
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    if isinstance(estimator, Pipeline):
        return estimator
    join = ColumnTransformer([("features", FunctionTransformer(), list(data.frame.columns))])
    return make_pipeline(join.fit(data.frame.head(1)), estimator)


def _skops() -> Any:
    """Import skops without the array libraries that it would load through scikit-learn; torch alone takes 3 s."""
    with without("torch", "dask", "cupy", "jax"):
        return importlib.import_module("skops.io")
