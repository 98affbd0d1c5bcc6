"""Spec and result of the stage ``train``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.contract import TrainingSample
from airflow_mlops.core.references import DatasetInput, DatasetRef, MLflowTarget, ModelVersionRef
from airflow_mlops.metrics.catalog import MetricName, check_on_request, find_metric, is_ranking
from airflow_mlops.metrics.quantiles import alpha_of, declared_quantiles, name_of
from airflow_mlops.models.rules.calibration import CalibrationInput
from airflow_mlops.models.rules.class_weight import ClassWeight
from airflow_mlops.models.rules.interval import IntervalInput
from airflow_mlops.models.rules.interval import refusal as interval_refusal
from airflow_mlops.models.rules.sample_weight import SampleWeight, refusal
from airflow_mlops.models.rules.threshold import ThresholdInput
from airflow_mlops.models.trainers.objectives import quantile_of
from airflow_mlops.models.trainers.spec import SearchTrainerSpec, TorchTrainerSpec, TrainerInput, TrainerSpec
from airflow_mlops.registry.names import SEARCH_TAG


class TrainSpec(Spec):
    """Parameters of a training, which fits a candidate to the split part ``train`` and registers a model version.

    :param dataset: a training set with the split parts ``train`` and ``test``
    :param model: name of the registered model to which the version is added
    :param trainer: the trainer, or the result of a search, from which the trainer with the best parameters is taken
    :param metrics: metrics that are computed and logged in addition to the built-in metrics: import paths of custom
        metrics (:mod:`airflow_mlops.metrics.custom`), expected costs (:mod:`airflow_mlops.metrics.costs`), deviances
        (:mod:`airflow_mlops.metrics.deviances`), metrics of one quantile (:mod:`airflow_mlops.metrics.quantiles`) and
        NDCG (:mod:`airflow_mlops.metrics.rankings`). A metric of a quantile declares that the model predicts this
        quantile. For a quantile objective or such a metric, the pinball loss of the quantile is added. The training also
        computes the deviance of an objective for counts or positive amounts, and NDCG@10 of a ranking without an NDCG
    :param threshold: rule for the decision threshold of a binary model, or the threshold as a number, see
        :class:`airflow_mlops.models.rules.threshold.ThresholdRule`; by default the threshold of the estimator, 0.5
    :param calibration: method by which the probabilities of a classifier are calibrated, see
        :mod:`airflow_mlops.models.calibration`; by default they are not calibrated
    :param interval: coverage of the prediction intervals of a regression, see :mod:`airflow_mlops.models.conformal`; by
        default, the model has no intervals. Models of a quantile other than the median cannot have intervals
    :param class_weight: ``balanced``, or a mapping from each class, as text, to its weight, see
        :func:`airflow_mlops.models.class_weights.with_class_weight`. The class weights multiply the row weights in the
        fit, and are not used in metrics
    :param sample_weight: column of the training set with the weights of the rows in the fit and in all metrics; by
        default all rows have the same weight
    :param seed: random seed. The same data, code and seed give the same model
    :param mlflow: the connection to MLflow, and the name of the experiment; by default the name of the model
    :param tags: tags for the MLflow run of the training
    """

    dataset: DatasetInput
    model: Name
    trainer: TrainerInput
    metrics: list[Annotated[MetricName, AfterValidator(check_on_request)]] = Field(default_factory=list)
    threshold: ThresholdInput = None
    calibration: CalibrationInput = None
    interval: IntervalInput = None
    class_weight: ClassWeight = None
    sample_weight: SampleWeight | None = None
    seed: int = Field(default=0, ge=0, lt=2**32)
    mlflow: MLflowTarget = MLflowTarget()
    tags: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _measures_quantile(self) -> TrainSpec:
        learned = quantile_of(self._learner)
        alphas = sorted({*declared_quantiles(self.metrics), *([] if learned is None else [learned])})
        if not alphas:
            return self
        if len(alphas) > 1:
            objective = "" if learned is None else f", and the objective learns the quantile {learned:g}"
            declared = " and ".join(f"{alpha:g}" for alpha in sorted(declared_quantiles(self.metrics)))
            raise ValueError(
                f"`metrics` declares the quantile {declared}{objective}, but a model predicts one quantile; keep the metrics of this "
                "quantile only"
            )
        if (name := name_of(alphas[0])) not in self.metrics:
            self.metrics.append(name)
        if isinstance(self.trainer, SearchTrainerSpec) and self.trainer.metric is None:
            raise ValueError(
                f"`metrics` says that the model predicts the quantile {alphas[0]:g}, which the search cannot judge by rmse, the default "
                f"for regression; set metric={{'metric': 'pinball', 'alpha': {alphas[0]:g}}} in the Search"
            )
        return self

    @model_validator(mode="after")
    def _weighs_classes(self) -> TrainSpec:
        if self.class_weight is None:
            return self
        if isinstance(self.trainer, TorchTrainerSpec):
            raise ValueError(
                "TorchTrainer does not support `class_weight`; weigh the classes in the loss of your module"
            )
        if isinstance(self.trainer, SearchTrainerSpec):
            raise ValueError(
                "a Search does not support `class_weight`, because its trials would be fitted without it; remove `class_weight`"
            )
        return self

    @property
    def _learner(self) -> TrainerSpec:
        return self.trainer.trainer if isinstance(self.trainer, SearchTrainerSpec) else self.trainer

    @property
    def _is_ranker(self) -> bool:
        return getattr(self._learner, "group", None) is not None

    @model_validator(mode="after")
    def _weighs_rows(self) -> TrainSpec:
        if self.sample_weight is not None:
            problem = refusal(
                self.trainer.model_dump(include={"kind", "dataset"}),
                finds_interval=self.interval is not None,
            )
            if problem is not None:
                raise ValueError(problem)
            if self._is_ranker or any(map(is_ranking, self.metrics)):
                raise ValueError(
                    "`sample_weight` is set, but rankings and ndcg do not support weights of rows; remove one of the two"
                )
        return self

    @model_validator(mode="after")
    def _predicts_numbers(self) -> TrainSpec:
        if self.interval is not None:
            alphas = {alpha_of(name) for name in self.metrics} - {None, 0.5}
            if alphas:
                raise ValueError(
                    f"`interval` is set, but the model predicts the quantile {alphas.pop():g}, and the intervals are symmetric around the "
                    "prediction; remove `interval`, or train a model of the mean or of the median"
                )
            if self._is_ranker:
                raise ValueError(
                    "`interval` is set, but the scores of a ranking are not in the unit of the label; remove `interval`"
                )
            excluded = ("threshold", "calibration", "class_weight")
            problem = interval_refusal(**{name: getattr(self, name) is not None for name in excluded})
            if problem is not None:
                raise ValueError(problem)
        return self

    @model_validator(mode="before")
    @classmethod
    def _take_best(cls, fields: Any) -> Any:
        trainer = fields.get("trainer")
        results = trainer if isinstance(trainer, list) else [trainer]
        if not results or not all(isinstance(item, dict) and "study" in item for item in results):
            return fields
        best = best_result(results)
        return {
            **fields,
            "trainer": best["trainer"],
            "tags": {SEARCH_TAG: best["run_id"], **(fields.get("tags") or {})},
        }


class TrainResult(Result):
    """Result of a training.

    :param candidate: the model version that the training registered, or the identical model version of an earlier
        training
    :param run_id: id of the MLflow run of the training
    :param run_url: URL of the run in the MLflow UI; ``None`` if the tracking server has no UI
    :param metrics: metrics on the split part ``test``, by name
    :param dataset: the training set
    :param trainer: name of the trainer
    :param training_sample: the sample to which the model was fitted (``max_rows`` of the trainer); ``None`` if it was
        fitted to all training rows
    """

    candidate: ModelVersionRef
    run_id: str
    run_url: str | None
    metrics: dict[str, float]
    dataset: DatasetRef
    trainer: str
    training_sample: TrainingSample | None = None

    def mlflow_runs(self) -> list[str]:
        return [self.run_id]


def best_result(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the best result of several searches, or of several workers of one search.

    :param results: results of searches (:class:`~airflow_mlops.stages.search.spec.SearchResult`) as JSON objects
    :raises ValueError: no search has a complete trial, or the searches optimised different metrics
    """
    found = [result for result in results if result["trainer"] is not None]
    if not found:
        raise ValueError("the search found no parameters, because no trial was completed; run more trials")
    if len(metrics := sorted({result["metric"] for result in found})) > 1:
        raise ValueError(
            f"searches for the metrics {' and '.join(metrics)} cannot be compared; use the same metric in all searches"
        )
    sign = find_metric(metrics[0], found[0].get("greater_is_better")).sign
    return max(found, key=lambda result: sign * result["value"])
