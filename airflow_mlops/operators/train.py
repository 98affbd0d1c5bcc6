"""``TrainOperator``, which trains one candidate model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_mlops.links import MLflowRunLink
from airflow_mlops.notifications import Event
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.operators.rendering import is_template

if TYPE_CHECKING:
    from airflow.sdk import Context


class TrainOperator(StepOperator):
    """Trains one candidate model on a training set, logs it to MLflow, and registers it as a version of ``model``.

    To train several candidates, map the task: ``TrainOperator.partial(...).expand(trainer=[...])``.

    :param dataset: the training set with the split parts `train` and `test`, which is the output of
        BuildTrainingSetOperator
    :param model: name of the registered model
    :param trainer: a trainer of :mod:`airflow_mlops.trainers`, such as
        :class:`~airflow_mlops.trainers.LightGBMTrainer`; a :class:`~airflow_mlops.trainers.Search` over one of them; a
        dict with the same fields; or the output of a SearchOperator, which contains the best parameters
    :param metrics: metrics that are measured on the split part `test` and logged in addition to the built-in metrics:
        import paths of custom metrics, ``package.module:function``; expected costs such as ``{"metric":
        "expected_cost", "false_positive": 1, "false_negative": 20}``, in which either cost can be the name of a column;
        deviances such as ``poisson_deviance`` or ``{"metric": "tweedie_deviance", "power": 1.5}``; metrics of a
        quantile such as ``{"metric": "pinball", "alpha": 0.9}``; and ``{"metric": "ndcg", "k": 10, "group": "query"}``
    :param threshold: the decision threshold of a binary model: a number from 0 to 1, or a rule. A rule is
        ``{"maximise": "f1"}`` (or ``accuracy``, ``balanced_accuracy``), ``{"precision": 0.9}``, ``{"recall": 0.9}`` or
        ``{"cost": {"false_positive": 1, "false_negative": "amount"}}``, where a cost is a number or the name of a
        column. It chooses the threshold on training rows that the
        model is not fitted to. By default, the threshold of the estimator, 0.5
    :param calibration: calibration method for the probabilities of a classifier: ``"isotonic"``, ``"sigmoid"`` or
        ``"temperature"``. The calibration is fitted to training rows that the model is not fitted to. By default, the
        probabilities are not calibrated
    :param interval: the nominal coverage of the prediction intervals of a regression, such as ``0.9`` or ``{"coverage":
        0.9}``. The coverage is the share of the labels that lie in their interval if the data do not change. The width
        is computed from training rows that the model is not fitted to. By default, a model has no intervals
    :param class_weight: ``"balanced"``, or a mapping from class to a weight greater than 0. Classes that are not in the
        mapping have the weight 1. They are multiplied by the row weights of :class:`~airflow_mlops.operators.Decay` and
        ``sample_weight``, and passed to the fit and to early stopping. Class weights do not change metrics, gates and
        monitoring
    :param sample_weight: column of the training set with the weight of each row, a finite number of at least 0. The
        weights are passed to the fit and to early stopping. They also weight metrics, gates and confidence bounds on
        the split part `test`, and realised performance in monitoring if the predictions or the labels have the column.
        The column must not be a feature, the label, a key or the event time: name it in ``watched`` of
        BuildTrainingSetOperator. By default, all rows have the same weight
    :param experiment: name of the MLflow experiment; by default ``model``
    :param mlflow_conn_id: id of the Airflow connection to MLflow
    :param seed: random seed of the training, which is passed as ``random_state`` to estimators and as ``seed`` to
        functions
    :param tags: additional tags of the MLflow run
    :raises SpecError: a parameter is invalid, two parameters exclude each other, or the trainer does not accept
        ``class_weight`` or ``sample_weight``
    """

    step = "train"
    cacheable = True
    structured = frozenset({"trainer", "threshold", "interval", "class_weight"})
    operator_extra_links = (MLflowRunLink(),)

    def __init__(
        self,
        *,
        dataset: Any,
        model: str,
        trainer: Any,
        metrics: Sequence[str | Mapping[str, Any]] | None = None,
        threshold: float | str | Mapping[str, Any] | None = None,
        calibration: str | None = None,
        interval: float | str | Mapping[str, Any] | None = None,
        class_weight: str | Mapping[Any, float] | None = None,
        sample_weight: str | None = None,
        experiment: str | None = None,
        mlflow_conn_id: str = "mlflow_default",
        seed: int | str = 0,
        tags: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(trainer, dict) and not is_template(trainer):
            from airflow_mlops.models.trainers.spec import check_trainer

            check_trainer(trainer, f"The trainer of task {self.task_id!r}")
        if threshold is not None and not is_template(threshold):
            from airflow_mlops.models.rules.threshold import check_threshold

            check_threshold(threshold, f"The threshold of task {self.task_id!r}")
        if calibration is not None and not is_template(calibration):
            from airflow_mlops.models.rules.calibration import check_calibration

            check_calibration(calibration, f"The calibration of task {self.task_id!r}")
        if interval is not None and not is_template(interval):
            from airflow_mlops.models.rules.interval import check_interval

            others = {"threshold": threshold, "calibration": calibration, "class_weight": class_weight}
            excluded = {name: None if is_template(value) else value for name, value in others.items()}
            check_interval(interval, f"The interval of task {self.task_id!r}", **excluded)
        if class_weight is not None and not is_template(class_weight):
            from airflow_mlops.models.rules.class_weight import check_class_weight

            check_class_weight(class_weight, f"The class weight of task {self.task_id!r}")
        if sample_weight is not None and not is_template(sample_weight):
            from airflow_mlops.models.rules.sample_weight import check_sample_weight

            declared = [None if is_template(item) else item for item in (trainer, interval)]
            check_sample_weight(f"The sample weight of task {self.task_id!r}", sample_weight, *declared)
        self.assign_parameters(locals())

    def finish(self, result: dict[str, Any], context: Context) -> None:
        place = self.place()
        # The run of a cached training belongs to the task that trained the model, perhaps with another image.
        if result.get("cached") is None and (digest := place.get("image_digest")):
            from airflow_mlops.hooks.mlflow import MLflowHook

            # The step cannot set these tags, because a pod does not know the digest of its own image.
            tags = {"mlops.image": place["image"], "mlops.image_digest": digest}
            MLflowHook(self.mlflow_conn_id).tag_run(result["run_id"], tags)

    def event(self, result: dict[str, Any], context: Context) -> Event | None:
        candidate = result["candidate"]
        # An earlier training registered the version, or an identical one.
        if candidate["run_id"] != result["run_id"] or result.get("cached") is not None:
            return None
        urls = self.urls(context, result["run_id"])
        return Event("registered", candidate["model"], result["summary"], candidate["version"], urls=urls)
