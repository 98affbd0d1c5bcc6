"""What a reproduction is asked for and answers."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import MLflowTarget


class ReproduceSpec(Spec):
    """Train a registered version again, register nothing, and compare."""

    model: str
    version: int = Field(ge=1)
    mlflow: MLflowTarget = MLflowTarget()


class Comparison(Model):
    """One thing that was compared.

    :param what: such as ``metric roc_auc``, ``code my.module:train`` or ``package numpy``
    :param then: of the registered version
    :param now: of the reproduction
    :param verdict: ``equal``, ``within tolerance``, ``differs``, or ``noted`` for a difference that alone is no reason
        for another model
    """

    what: str
    then: str
    now: str
    verdict: str


class ReproduceResult(Result):
    """What came of it.

    :param reproduced: whether nothing differs
    :param comparisons: data, seed, code, environment and metrics
    """

    reproduced: bool
    comparisons: list[Comparison]
