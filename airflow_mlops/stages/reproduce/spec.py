"""Spec and result of the stage ``reproduce``."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import MLflowTarget


class ReproduceSpec(Spec):
    """Train a registered version again and compare the result with it. Nothing is registered."""

    model: str
    version: int = Field(ge=1)
    mlflow: MLflowTarget = MLflowTarget()


class Comparison(Model):
    """The comparison of one property.

    :param what: the property, such as ``metric roc_auc``, ``code my.module:train`` or ``package numpy``
    :param then: its value in the registered version
    :param now: its value in the reproduction
    :param verdict: ``equal``, ``within tolerance``, ``differs``, or ``noted`` for a difference that does not by itself
        make the model a different one
    """

    what: str
    then: str
    now: str
    verdict: str


class ReproduceResult(Result):
    """The outcome of a reproduction.

    :param reproduced: whether no verdict is ``differs``
    :param comparisons: comparisons of data, seed, code, environment and metrics
    """

    reproduced: bool
    comparisons: list[Comparison]
