"""Spec and result of the stage ``reproduce``."""

from __future__ import annotations

from pydantic import Field, StrictBool

from airflow_mlops.core.base import Model
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import MLflowTarget


class ReproduceSpec(Spec):
    """Parameters of a reproduction, which trains a registered version again and compares the result with the version.

    The reproduction does not register a model version.

    :param allow_code: whether user code that the version's MLflow run names may run. By default, only estimators of
        well-known packages run, see :mod:`airflow_mlops.models.trainers.known`
    """

    model: str
    version: int = Field(ge=1)
    allow_code: StrictBool = False
    mlflow: MLflowTarget = MLflowTarget()


class Comparison(Model):
    """One property of the registered version, compared with the same property of the reproduction.

    :param what: name of the property, such as ``metric roc_auc``, ``code my.module:train`` or ``package numpy``
    :param then: value of the property in the registered version
    :param now: value of the property in the reproduction
    :param verdict: ``equal``, ``within tolerance``, ``differs``, or ``noted``. A difference of the environment, and a
        metric that the registered version did not record, are ``noted`` and do not make the reproduction fail
    """

    what: str
    then: str
    now: str
    verdict: str


class ReproduceResult(Result):
    """The result of a reproduction.

    :param reproduced: true if no comparison has the verdict ``differs``
    :param comparisons: the comparisons of data, seed, code, environment and metrics
    """

    reproduced: bool
    comparisons: list[Comparison]
