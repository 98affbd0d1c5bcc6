"""Spec and result of the stage ``compare_features``."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import DatasetLike, DatasetRef, MLflowTarget


class CompareFeaturesSpec(Spec):
    """Parameters of the comparison of logged features with the point-in-time join.

    :param model: name of the model whose servers logged the rows
    :param dataset: the logged predictions
    :param repo: path of the folder with ``feature_store.yaml``
    :param min_equal: smallest share of rows whose features are all equal, 0 to 1. If fewer rows are equal, the step fails
    """

    model: Name
    dataset: DatasetLike
    repo: str = Field(min_length=1)
    min_equal: float = Field(default=1.0, ge=0, le=1)
    mlflow: MLflowTarget = MLflowTarget()


class CompareFeaturesResult(Result):
    """The result of the comparison.

    :param rows: number of logged rows
    :param compared: number of compared rows. Rows whose join keys are all null are not compared, and neither are rows
        of versions without features from Feast
    :param equal: share of the compared rows whose features are all equal; ``None`` if no row is compared
    :param features: number of rows with another value than in the join, by name of the feature. All compared features
        have an entry
    :param differences: the dataset that names each unequal value
    """

    rows: int
    compared: int
    equal: float | None
    features: dict[str, int]
    differences: DatasetRef
