"""Spec and result of the stage ``validate``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import DatasetLike, DatasetRef

OnFailure = Literal["fail", "warn", "quarantine"]


class ValidateSpec(Spec):
    """Parameters of a validation, which runs a Great Expectations suite on a dataset.

    :param dataset: dataset to validate. Several datasets with the same name are validated as one table
    :param suite: the suite, in one of three forms: the path of a ``.json`` file in Great Expectations' format, the
        content of such a file as a dict, or the import path ``package.module:function`` of a function that takes no
        arguments and returns an ``ExpectationSuite``
    :param on_failure: what happens if an expectation fails. ``fail`` fails the task. ``warn`` writes a message to the
        log, and the task succeeds. ``quarantine`` writes the failing rows to the dataset ``NAME_quarantine`` and the
        other rows to ``NAME_valid``, and the task succeeds. With ``quarantine``, the task still fails if every row
        failed, or if a failed expectation concerns the whole table
    :param owner: owner of the written datasets, if the validated dataset has no owner
    """

    dataset: DatasetLike
    suite: str | dict[str, Any]
    on_failure: OnFailure = "fail"
    owner: str = ""


class ExpectationOutcome(Model):
    """The result of one expectation.

    :param expectation: type and columns of the expectation, such as ``expect_column_values_to_not_be_null(carrier)``
    :param success: whether the expectation passed
    :param unexpected: number of rows that do not meet the expectation; ``None`` if the expectation concerns the whole
        table
    """

    expectation: str
    success: bool
    unexpected: int | None = None


class ValidateResult(Result):
    """Result of a validation.

    :param dataset: dataset for downstream tasks: with ``on_failure="quarantine"`` the dataset ``NAME_valid``, otherwise
        the validated dataset, or a list if several datasets were validated
    :param success: whether every expectation passed
    :param quarantined: with ``on_failure="quarantine"`` the dataset ``NAME_quarantine`` with the failing rows, which
        has no rows if all rows passed; otherwise ``None``
    :param outcomes: result of each expectation
    :param docs_url: URL of the Data Docs page with the results, in the artifact store
    """

    dataset: DatasetRef | list[DatasetRef]
    success: bool
    quarantined: DatasetRef | None = None
    outcomes: list[ExpectationOutcome] = Field(default_factory=list)
    docs_url: str
