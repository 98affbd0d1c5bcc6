"""Spec and result of the stage ``validate``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import DatasetInput, DatasetRef

OnFailure = Literal["fail", "warn", "quarantine"]


class ValidateSpec(Spec):
    """Run a Great Expectations suite on a dataset.

    :param suite: path of a suite's JSON file as Great Expectations writes it, the content of such a file as a dict, or the
        import path ``package.module:function`` of a function that returns an ``ExpectationSuite``
    :param on_failure: ``fail`` the task, ``warn`` in the log and continue, or ``quarantine`` the failing rows and continue
        with the others
    """

    dataset: DatasetInput
    suite: str | dict[str, Any]
    on_failure: OnFailure = "fail"
    owner: str = ""


class ExpectationOutcome(Model):
    """The outcome of one expectation.

    :param expectation: its type and columns, such as ``expect_column_values_to_not_be_null(carrier)``
    :param unexpected: number of rows that do not meet it; ``None`` for an expectation about the whole table
    """

    expectation: str
    success: bool
    unexpected: int | None = None


class ValidateResult(Result):
    """Result of a validation.

    :param dataset: the dataset for downstream tasks: the validated one or, with ``quarantine``, ``NAME_valid``
    :param success: whether every expectation passed
    :param quarantined: with ``quarantine``, the dataset ``NAME_quarantine`` with the failing rows; it may be empty
    :param outcomes: the outcome of each expectation
    :param docs_url: URL of the Data Docs page in the artifact store
    """

    dataset: DatasetRef
    success: bool
    quarantined: DatasetRef | None = None
    outcomes: list[ExpectationOutcome] = Field(default_factory=list)
    docs_url: str
