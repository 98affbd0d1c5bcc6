"""The rule for retries: errors that a retry cannot correct fail the task immediately."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.sdk.exceptions import AirflowFailException

from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.core.secrets import mask_chain


@contextmanager
def no_retry_of_final_errors() -> Iterator[None]:
    """Fail the task without a retry if the block raises an error that is not retryable.

    Airflow writes the error and its causes to the task's log, so their messages are masked.
    """
    try:
        yield
    except Exception as error:
        mask_chain(error)
        if not isinstance(error, MLOpsError) or error.retryable:
            raise
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error
