"""Spec and result of the stage ``evaluate``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, ValidationInfo, field_validator, model_validator

from airflow_mlops.core.calls import Result
from airflow_mlops.core.references import DatasetInput, DatasetLike, MLflowTarget, ModelVersionRef
from airflow_mlops.core.shards import ShardedSpec
from airflow_mlops.core.windows import Window
from airflow_mlops.metrics.catalog import MetricName, check_chooses, check_metric
from airflow_mlops.registry.records.verdict import Verdict
from airflow_mlops.stages.evaluate.card_spec import Card


def _as_version(value: Any) -> Any:
    # The result of a TrainOperator refers to the version that it registered.
    if isinstance(value, dict) and "candidate" in value:
        return value["candidate"]
    # The run of a version that was registered elsewhere is looked up in MLflow.
    return {"run_id": "", **value} if isinstance(value, dict) else value


CandidateInput = Annotated[ModelVersionRef, BeforeValidator(_as_version)]


class EvaluateSpec(ShardedSpec):
    """Parameters of an evaluation, which measures candidates and the current champion on the same held-out data.

    :param candidates: the model versions to evaluate, the preferred one first. An empty ``run_id`` is looked up in
        MLflow
    :param model: name of the registered model that the candidates must belong to; by default the candidates' model
    :param dataset: the dataset to evaluate on; by default the training set of the candidates
    :param evidence: datasets of labelled predictions of the candidates and of the champion, written by
        JoinLabelsOperator. If set, the versions are compared by these predictions instead of on held-out rows, see
        :mod:`airflow_mlops.stages.evaluate.live`
    :param part: name of the held-out split part of the dataset, such as ``test``
    :param gates: declarations of the gates that a candidate must pass, see :mod:`airflow_mlops.gates.rules`. By
        default, a candidate must be better than the baseline and better than the champion, each with 95% confidence.
        A gate that compares with the champion is added, unless a declared gate compares with the champion or ignores
        the champion, see :func:`airflow_mlops.gates.rules.with_champion`
    :param metric: name of the metric that ranks the candidates that pass every gate, see
        :func:`airflow_mlops.stages.evaluate.verdict.choose`; by default the metric by which the
        candidates are judged (:func:`airflow_mlops.metrics.judged.common_metric`). A custom metric
        is given by its import path (:mod:`airflow_mlops.metrics.custom`). An expected cost is given as a mapping
        with its costs (:mod:`airflow_mlops.metrics.costs`)
    :param greater_is_better: whether greater values of a custom metric are better; ``None`` for a built-in metric
    :param groups: column of the dataset that names the cluster of each row, such as a customer. Rows of one cluster are
        not independent, and the confidence bounds of gates and of the model card allow for this. By default, rows are
        independent
    :param allow_pyfunc: whether code that is stored with a version may run, see
        :mod:`airflow_mlops.models.pyfunc.loading`
    :param allow_code: whether the gate ``reproducible`` may run any code that a candidate's MLflow run names. By
        default, it may run only estimators of well-known packages, see :mod:`airflow_mlops.models.trainers.known`
    :param card: purpose, limits and owner for the model cards
    """

    candidates: list[CandidateInput] = Field(min_length=1)
    model: str | None = None
    dataset: DatasetInput | None = None
    evidence: DatasetLike | None = None
    part: str = "test"
    gates: list[dict[str, Any]] | None = None
    metric: MetricName | None = None
    greater_is_better: bool | None = None
    groups: str | None = Field(default=None, min_length=1)
    allow_pyfunc: StrictBool = False
    allow_code: StrictBool = False
    card: Card = Card()
    mlflow: MLflowTarget = MLflowTarget()

    @field_validator("gates", mode="after")
    @classmethod
    def _windows_of_the_run(
        cls, gates: list[dict[str, Any]] | None, info: ValidationInfo
    ) -> list[dict[str, Any]] | None:
        # Windows are read in the time zone of the DAG, which is not known where gates are parsed and checked.
        return gates and [
            {
                **gate,
                "can_score": {**found, "window": str(Window.model_validate(found["window"], context=info.context))},
            }
            if isinstance(found := gate.get("can_score"), dict) and isinstance(found.get("window"), str)
            else gate
            for gate in gates
        ]

    @model_validator(mode="after")
    def _one_source(self) -> EvaluateSpec:
        if self.evidence is not None and (self.dataset is not None or self.part != "test"):
            raise ValueError(
                "`evidence` compares predictions of production, and `dataset` and `part` name held-out rows. Set either "
                "`evidence`, or `dataset` and `part`."
            )
        if self.evidence is not None and self.shards is not None:
            raise ValueError(
                "`shards` divides the rows that the models predict, but `evidence` already contains the predictions. Remove "
                "`shards`."
            )
        return self

    @model_validator(mode="after")
    def _known_metric(self) -> EvaluateSpec:
        check_metric(self.metric, self.greater_is_better)
        check_chooses(self.metric)
        return self


class EvaluateResult(Result):
    """The result of an evaluation.

    With ``shards``, the shard that finishes last has the verdict.

    :param verdict: the verdict on all candidates; ``None`` if another shard makes the verdict
    :param run_id: id of the winner's MLflow run, or of the best candidate's run if no candidate passed every gate;
        empty if this version has no MLflow run, or if another shard makes the verdict
    :param reports: for each candidate with an MLflow run, the URI ``runs:/RUN/evaluation`` of the artifacts with
        verdict, plots and model card; empty if another shard makes the verdict
    :param shard: index of the shard; ``None`` without shards
    """

    verdict: Verdict | None
    run_id: str
    reports: list[str]
    shard: int | None = None

    def mlflow_runs(self) -> list[str]:
        if self.verdict is None:
            return []
        return [item.candidate.run_id for item in self.verdict.candidates]
