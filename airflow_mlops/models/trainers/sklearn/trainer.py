"""Fit a scikit-learn estimator together with its preprocessing."""

from __future__ import annotations

from typing import Any

from airflow_mlops.core import imports
from airflow_mlops.core.errors import MLOpsError, SpecError, TrainingError
from airflow_mlops.models.trainers.base import TrainingData, TrainingRun
from airflow_mlops.models.trainers.sampling import sampled
from airflow_mlops.models.trainers.sklearn import batches, ebm, preprocessing
from airflow_mlops.models.trainers.sklearn.model import SklearnModel
from airflow_mlops.models.trainers.spec import SklearnTrainerSpec


def fit(spec: SklearnTrainerSpec, data: TrainingData, seed: int, run: TrainingRun | None = None) -> SklearnModel:
    """Fit a pipeline of preprocessing and estimator. An Explainable Boosting Machine is fitted without preprocessing.

    :param spec: the trainer, with the import path of the estimator
    :param data: features and labels of the rows to train on. If there are more than ``max_rows``, a sample is drawn
    :param seed: ``random_state`` of the estimator, unless ``params`` sets one, and seed of the sample
    :param run: with ``batch_rows``, the training set to stream; ``None`` for rows in memory
    :raises SpecError: the estimator does not exist, or does not accept ``params``, ``preprocessing`` or ``batch_rows``
    :raises TrainingError: the estimator does not suit the ML task, does not accept the weights of the rows, or cannot
        be fitted to the data
    """
    estimator = _make_estimator(spec, data, seed)
    data = sampled(data, spec.max_rows, seed)
    params = estimator.get_params(deep=False)
    sources: dict[str, Any] = {spec.estimator: type(estimator)}
    preprocessed, user = spec.preprocessing or "by column type", None
    if ebm.is_ebm(estimator):
        if spec.preprocessing:
            raise SpecError(
                f"{spec.estimator} does not accept `preprocessing`, because the shape functions of an EBM describe the "
                "original features. An EBM supports text and nulls without preprocessing. Remove `preprocessing`."
            )
        ebm.set_types(estimator, data.features)
        preprocessed = "none"
    elif spec.preprocessing:
        make = sources[spec.preprocessing] = imports.load(spec.preprocessing, "preprocessing")
        user = preprocessing.by_user(make, spec.preprocessing, data)
    try:
        if spec.batch_rows is None:
            pipeline = _fit_at_once(estimator, user, spec, data)
        else:
            pipeline = batches.fit(estimator, user, spec, data, seed, run)
            params = {"batch_rows": spec.batch_rows, "epochs": spec.epochs, **params}
    except MLOpsError:
        raise
    except Exception as error:
        raise TrainingError(
            f"Fitting {spec.estimator} to {len(data.labels):,} rows and {len(data.features)} features raised "
            f"{type(error).__name__}: {error}"
        ) from error
    return SklearnModel(
        pipeline,
        data,
        name=spec.name or type(estimator).__name__,
        params={"estimator": spec.estimator, "preprocessing": preprocessed, **params},
        sources=sources,
        spec=spec,
        complete=spec.batch_rows is None or run is None,
    )


def _fit_at_once(estimator: Any, user: Any, spec: SklearnTrainerSpec, data: TrainingData) -> Any:
    from sklearn.pipeline import make_pipeline

    if ebm.is_ebm(estimator):
        pipeline, step = estimator, ""
    else:
        transformer = preprocessing.by_column_type(estimator, data) if user is None else user
        pipeline = make_pipeline(transformer, estimator)
        step = pipeline.steps[-1][0]
    with ebm.no_plot_warnings():
        pipeline.fit(data.frame, data.labels, **_weights(estimator, step, spec, data))
    return pipeline


def _weights(estimator: Any, step: str, spec: SklearnTrainerSpec, data: TrainingData) -> dict[str, Any]:
    """Return the argument of ``fit`` with the weights of the rows; empty if the rows have no weights.

    :param step: name of the estimator's step in the pipeline; empty without a pipeline
    :raises TrainingError: the estimator's ``fit`` does not accept ``sample_weight``
    """
    from sklearn.utils.validation import has_fit_parameter

    if data.weights is None:
        return {}
    if not has_fit_parameter(estimator, "sample_weight"):
        raise TrainingError(
            f"The rows of the training set have weights (Decay, `sample_weight` or `class_weight`), but fit() of {spec.estimator} does not "
            "accept sample_weight. Use another estimator, or remove `sample_weight` and `class_weight`, and build the training set with "
            "Rolling or Expanding."
        )
    return {f"{step}__sample_weight" if step else "sample_weight": data.weights}


def _make_estimator(spec: SklearnTrainerSpec, data: TrainingData, seed: int) -> Any:
    from sklearn.base import is_classifier, is_regressor

    kind = imports.load(spec.estimator, "estimator")
    try:
        estimator = kind(**spec.params)
        needs_seed = "random_state" in estimator.get_params(deep=False) and "random_state" not in spec.params
    except (TypeError, AttributeError) as error:
        raise SpecError(
            f"The estimator {spec.estimator!r} cannot be created with params={spec.params}: {error}. Change `params`."
        ) from None
    try:
        classifier, regressor = is_classifier(estimator), is_regressor(estimator)
    except (TypeError, AttributeError):
        raise SpecError(
            f"scikit-learn cannot tell whether {spec.estimator!r} with params={spec.params} is a classifier or a regressor. "
            "If a parameter in `params` must be an estimator, create the estimator in Python and use FunctionTrainer. "
            "Otherwise, set `estimator` to a scikit-learn estimator."
        ) from None
    if needs_seed:
        estimator.set_params(random_state=seed)
    if data.task == "regression":
        if not regressor:
            raise TrainingError(
                f"The estimator {spec.estimator!r} is not a regressor, but the label {data.label!r} is a regression label. "
                "Set `estimator` to a regressor."
            )
    elif not classifier:
        raise TrainingError(
            f"The estimator {spec.estimator!r} is not a classifier, but the label {data.label!r} has classes ({data.task}). "
            "Set `estimator` to a classifier."
        )
    elif not hasattr(estimator, "predict_proba"):
        raise TrainingError(
            f"The estimator {spec.estimator!r} has no predict_proba with params={spec.params}. Wrap it in "
            "sklearn.calibration.CalibratedClassifierCV (with FunctionTrainer), or use another estimator."
        )
    return estimator
