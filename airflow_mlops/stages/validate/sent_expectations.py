"""Describe expectations as JSON, so that an executor checks rows with the same expectations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_mlops.stages.validate.suites import expectation_of
from airflow_mlops.stages.validate.times import with_time_bounds

if TYPE_CHECKING:
    import pyarrow as pa
    from great_expectations.expectations.expectation import Expectation

# Great Expectations may replace a parameter of the suite by another value on each machine, such as the current time.
PARAMETER = "$PARAMETER"


def describe(expectation: Expectation, schema: pa.Schema) -> dict[str, Any] | None:
    """Return JSON values from which :func:`restore` creates the expectation again.

    :param schema: the columns of the rows
    :return: ``None`` if the restored expectation would differ, for example because a function of the user has created it
        with values that JSON does not have
    """
    found = expectation.configuration
    try:
        text = json.dumps({"type": found.type, "kwargs": found.to_json_dict()["kwargs"]}, allow_nan=False)
        given: dict[str, Any] = json.loads(text)
        (restored,) = restore([given], schema)
    except Exception:  # noqa: BLE001 - of Great Expectations; the expectation is then checked on the worker
        return None
    return given if PARAMETER not in text and restored.configuration.kwargs == found.kwargs else None


def restore(given: Sequence[dict[str, Any]], schema: pa.Schema) -> list[Expectation]:
    """Create the expectations that :func:`describe` described.

    :param schema: the columns of the rows
    """
    from great_expectations import ExpectationSuite

    suite = ExpectationSuite(name="suite", expectations=[expectation_of(item, "The suite") for item in given])
    found: list[Expectation] = list(with_time_bounds(suite, schema.empty_table()).expectations)
    return found
