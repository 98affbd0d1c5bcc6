"""Validating a dataset: what is asked and what comes back."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import DatasetInput, DatasetRef

OnFailure = Literal["fail", "warn", "quarantine"]


class ValidateSpec(Spec):
    """Run a Great Expectations suite on a dataset.

    :param suite: path of a suite's JSON file as Great Expectations writes it, the same as a dict, or the import path
        ``package.module:function`` of a function that returns an ``ExpectationSuite``
    :param on_failure: ``fail`` the task, ``warn`` and go on, or ``quarantine`` the rows that failed and go on with the rest
    """

    dataset: DatasetInput
    suite: str | dict[str, Any]
    on_failure: OnFailure = "fail"
    owner: str = ""


class ExpectationOutcome(Model):
    """One expectation's answer.

    :param expectation: its type and what it is about, such as ``expect_column_values_to_not_be_null(carrier)``
    :param unexpected: rows that did not meet it; ``None`` for an expectation about the table as a whole
    """

    expectation: str
    success: bool
    unexpected: int | None = None


class ValidateResult(Result):
    """What validation found.

    :param dataset: what to go on with: the dataset itself or, with ``quarantine``, ``NAME_valid``
    :param success: whether every expectation was met
    :param quarantined: with ``quarantine``, the dataset ``NAME_quarantine`` of the rows that failed, perhaps none
    :param outcomes: every expectation's answer
    :param docs_url: where the Data Docs page is in the artifact store
    """

    dataset: DatasetRef
    success: bool
    quarantined: DatasetRef | None = None
    outcomes: list[ExpectationOutcome] = Field(default_factory=list)
    docs_url: str
