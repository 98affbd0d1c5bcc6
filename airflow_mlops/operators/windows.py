"""The values of the parameter ``window`` of BuildTrainingSetOperator: windows that end with the window of the run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import SpecError
from airflow_mlops.operators.rendering import is_template
from airflow_mlops.operators.retraining import triggering_requests

if TYPE_CHECKING:
    from airflow.sdk import Context


class Rolling(dict[str, Any]):
    """The last months, weeks or days: a window of a fixed length that ends with the window of the run.

    :param length: an ISO 8601 period, such as ``P6M`` or ``P90D``. Years, months, weeks and days are counted in the
        time zone of the run's window. The field is templated
    :raises SpecError: ``length`` is not an ISO 8601 period
    """

    def __init__(self, length: str) -> None:
        super().__init__(kind="rolling", length=length)
        _check(self)


class Expanding(dict[str, Any]):
    """A window from a fixed instant to the end of the window of the run.

    :param since: first instant, such as ``2013-01-01`` or ``2013-01``. A value without a time zone is local time in the
        time zone of the DAG. The field is templated
    :raises SpecError: ``since`` is not a point in time
    """

    def __init__(self, since: str | date) -> None:
        super().__init__(kind="expanding", since=since if isinstance(since, str) else since.isoformat())
        _check(self)


class Decay(dict[str, Any]):
    """A window from the oldest data to the end of the window of the run. Older rows have smaller weights.

    The weight of a row is ``0.5 ** (age / half_life)``, where the age is the elapsed time from the event to the end of
    the run's window. Trainers pass the weights to the estimator as ``sample_weight``.

    :param half_life: age at which a row has the weight 0.5, such as ``P60D`` or ``60D``. Years and months are not
        allowed, because they have no fixed length. The field is templated
    :raises SpecError: ``half_life`` is not a duration
    """

    def __init__(self, half_life: str) -> None:
        super().__init__(kind="decay", half_life=half_life)
        _check(self)


def _check(rule: dict[str, Any]) -> None:
    # Checked here, because a mapped operator is not created while the DAG is parsed.
    if not is_template(rule):
        check_rule(rule, type(rule).__name__)


def check_rule(rule: Any, where: str) -> None:
    """Validate a window rule in a DAG file.

    :param rule: a :class:`Rolling`, :class:`Expanding` or :class:`Decay`, or a dict with the same fields
    :param where: start of the error message
    :raises SpecError: the rule is invalid
    """
    from airflow_mlops.core.base import parse
    from airflow_mlops.core.training_windows import WindowRule

    parse(WindowRule, {"window": rule}, where)


def with_run_window(entities: Any, context: Context) -> Any:
    """Return ``entities`` with the window of the run, from which a window rule derives the training window.

    The window is the first of these that exists:

    - ``window`` in ``entities``;
    - the monitored window of the retraining request that started the run. If there are several requests, it is the
      window that ends last;
    - the partition key;
    - the data interval.

    :param entities: a selection of datasets by name. Anything else is returned unchanged
    :raises SpecError: the run has none of these windows, or ``window`` in ``entities`` is empty text
    """
    if isinstance(entities, str):
        entities = {"name": entities}
    if not isinstance(entities, Mapping) or "name" not in entities or "id" in entities:
        return entities
    if (window := entities.get("window")) is not None:
        if isinstance(window, str) and not window.strip():
            # The text is empty, for example, if a template refers to a parameter that is not set.
            raise SpecError(
                "`window` in `entities` is empty text. Set the window of the run, or remove `window` to use the retraining "
                "request, the partition key or the data interval of the run."
            )
        return entities
    return {**entities, "window": _run_window(context)}


def _run_window(context: Context) -> str:
    if requests := triggering_requests(context):
        return str(max((request.window for request in requests), key=lambda window: window.end))
    if key := context.get("partition_key"):
        return key
    start, end = context.get("data_interval_start"), context.get("data_interval_end")
    if start is not None and end is not None and start < end:
        return f"{start.isoformat()}/{end.isoformat()}"
    raise SpecError(
        "window= is derived from the window of the run, but this run has no retraining request, no partition key and no data "
        'interval: trigger the DAG with a partition key, or set the window of the run, as in entities={"name": ..., '
        '"window": "{{ params.window }}"}.'
    )
