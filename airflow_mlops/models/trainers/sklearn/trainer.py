"""Fit a scikit-learn estimator behind its preprocessing."""

from __future__ import annotations

from typing import Any

from airflow_mlops.core import imports
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.models.trainers.base import TrainingData, TrainingRun
from airflow_mlops.models.trainers.sklearn import ebm, preprocessing
from airflow_mlops.models.trainers.sklearn.model import SklearnModel
from airflow_mlops.models.trainers.spec import SklearnTrainerSpec


def fit(spec: SklearnTrainerSpec, data: TrainingData, seed: int, run: TrainingRun | None = None) -> SklearnModel:
    """Fit the estimator behind its preprocessing. An Explainable Boosting Machine gets the features unchanged.

    :raises SpecError: the estimator does not exist, or does not accept these parameters or a preprocessing
    :raises TrainingError: the estimator is of the wrong kind for the task, or cannot be fitted to the data
    """
    from sklearn.pipeline import make_pipeline

    estimator = _make_estimator(spec, data, seed)
    params = estimator.get_params(deep=False)
    sources: dict[str, Any] = {spec.estimator: type(estimator)}
    preprocessed = spec.preprocessing or "by column type"
    if ebm.is_ebm(estimator):
        if spec.preprocessing:
            raise SpecError(
                f"{spec.estimator} explains itself in terms of the original features, and handles text and missing "
                "values itself: remove preprocessing."
            )
        ebm.set_types(estimator, data.features)
        pipeline, preprocessed = estimator, "none"
    elif spec.preprocessing:
        make = imports.load(spec.preprocessing, "preprocessing")
        sources[spec.preprocessing] = make
        pipeline = make_pipeline(preprocessing.by_user(make, spec.preprocessing, data), estimator)
    else:
        pipeline = make_pipeline(preprocessing.by_column_type(estimator, data), estimator)
    try:
        with ebm.no_plot_warnings():
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
        params={"estimator": spec.estimator, "preprocessing": preprocessed, **params},
        sources=sources,
        spec=spec,
    )


def _make_estimator(spec: SklearnTrainerSpec, data: TrainingData, seed: int) -> Any:
    from sklearn.base import is_classifier, is_regressor

    kind = imports.load(spec.estimator, "estimator")
    try:
        estimator = kind(**spec.params)
        needs_seed = "random_state" in estimator.get_params(deep=False) and "random_state" not in spec.params
    except (TypeError, AttributeError) as error:
        raise SpecError(f"The estimator {spec.estimator!r} cannot be made with {spec.params}: {error}.") from None
    if needs_seed:
        estimator.set_params(random_state=seed)
    if data.task == "regression":
        if not is_regressor(estimator):
            raise TrainingError(f"{spec.estimator} is not a regressor, but the task is a regression of {data.label!r}.")
    elif not is_classifier(estimator):
        raise TrainingError(f"{spec.estimator} is not a classifier, but the label {data.label!r} has classes.")
    elif not hasattr(estimator, "predict_proba"):
        raise TrainingError(
            f"{spec.estimator} has no predict_proba with these parameters: wrap it in "
            "sklearn.calibration.CalibratedClassifierCV (with FunctionTrainer), or use another estimator."
        )
    return estimator
