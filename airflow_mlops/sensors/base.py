"""The base class of the sensors."""

from __future__ import annotations

from abc import abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue, conf

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import by_name
from airflow_mlops.operators.calendar import calendar
from airflow_mlops.operators.failures import no_retry_of_final_errors
from airflow_mlops.operators.parameters import SpecParameters

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.triggers.base import BaseTrigger

    from airflow_mlops.core.calls import Result


class SpecSensor(SpecParameters, BaseSensorOperator):
    """The base class of sensors that wait for a condition and return the result of the first successful check.

    The first check runs in the process of the task. If ``deferrable`` is true, further checks run in the triggerer.

    :param deferrable: whether to wait in the triggerer; by default ``[operators] default_deferrable``
    :param period: length of a window that is written as one date or time, as an ISO 8601 duration (``P1D``)
    """

    untemplated = frozenset({"deferrable"})

    def __init__(self, *, deferrable: bool | None = None, period: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.period = period
        if deferrable is None:
            deferrable = conf.getboolean("operators", "default_deferrable", fallback=False)
        self.deferrable = deferrable

    @abstractmethod
    def check(self, spec: Any) -> Result | None:
        """Check the condition once. Return the result if the condition is met, otherwise ``None``.

        :param spec: the spec of the sensor
        """

    @abstractmethod
    def trigger(self, spec: dict[str, Any]) -> BaseTrigger:
        """Return the Airflow trigger that checks the condition in the triggerer.

        :param spec: the spec of the sensor as JSON
        """

    def poke(self, context: Context) -> PokeReturnValue:
        with no_retry_of_final_errors():
            times = calendar(context, self.period)
            spec = parse(self.spec, self.spec_fields(), f"Task {self.task_id!r}", calendar=times)
            found = self.check(spec)
        if found is not None:
            return PokeReturnValue(True, self._log_summary(found.model_dump(mode="json")))
        if self.deferrable:
            self.defer(
                trigger=self.trigger(spec.model_dump(mode="json")),
                method_name="execute_complete",
                timeout=timedelta(seconds=self.timeout),
            )
        return PokeReturnValue(False)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return the result of the check after the Airflow trigger has fired.

        :param event: payload of the event: ``result``, or ``error`` and ``message``
        :raises MLOpsError: a check in the triggerer failed, and a retry can succeed
        :raises AirflowFailException: a check in the triggerer failed, and no retry can succeed, so the task is not
            retried
        """
        with no_retry_of_final_errors():
            if "error" in event:
                raise by_name(event["error"])(event["message"])
        return self._log_summary(event["result"])

    def _log_summary(self, result: dict[str, Any]) -> dict[str, Any]:
        self.log.info("%s", result["summary"])
        return result
