"""Spec and result of the stage ``validate``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import DatasetInput, DatasetRef

OnFailure = Literal["fail", "warn", "quarantine"]


class ValidateSpec(Spec):
    """Parameters of a validation, which runs a Great Expectations suite on a dataset.

    :param dataset: dataset to validate
    :param suite: path of a suite in Great Expectations' JSON format, the content of such a file as a dict, or the
        import path ``package.module:function`` of a function without parameters that returns an ``ExpectationSuite``
    :param on_failure: what happens if an expectation fails: ``fail`` fails the task; ``warn`` writes a message to the
        log and continues; ``quarantine`` writes the failing rows to a separate dataset and continues with the other
        rows
    :param owner: owner of the written datasets, if the validated dataset has none
    """

    dataset: DatasetInput
    suite: str | dict[str, Any]
    on_failure: OnFailure = "fail"
    owner: str = ""


class ExpectationOutcome(Model):
    """The result of one expectation.

    :param expectation: type and columns of the expectation, such as ``expect_column_values_to_not_be_null(carrier)``
    :param success: whether the expectation passed
    :param unexpected: number of rows that do not meet the expectation; ``None`` if it concerns the whole table
    """

    expectation: str
    success: bool
    unexpected: int | None = None


class ValidateResult(Result):
    """Result of a validation.

    :param dataset: dataset for downstream tasks, which is the validated dataset or, with ``quarantine``, ``NAME_valid``
    :param success: whether every expectation passed
    :param quarantined: with ``quarantine``, the dataset ``NAME_quarantine`` with the failing rows, which may be empty
    :param outcomes: result of each expectation
    :param docs_url: URL of the Data Docs page in the artifact store
    """

    dataset: DatasetRef
    success: bool
    quarantined: DatasetRef | None = None
    outcomes: list[ExpectationOutcome] = Field(default_factory=list)
    docs_url: str
