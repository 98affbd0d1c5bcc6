"""What the sensors of this package have in common."""

from __future__ import annotations

from abc import abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseSensorOperator, PokeReturnValue, conf

from airflow_mlops.core.base import parse
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.errors import by_name
from airflow_mlops.operators.base import no_retry_in_vain

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.triggers.base import BaseTrigger


class SpecSensor(BaseSensorOperator):
    """Looks in the task's process, and where ``deferrable`` goes on looking in the triggerer; returns what it found.

    A subclass names its spec, and builds the spec's fields from its own, rendered, attributes.

    :param deferrable: wait in the triggerer; ``[operators] default_deferrable`` unless given
    """

    spec: ClassVar[type[Spec]]

    def __init__(self, *, deferrable: bool | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if deferrable is None:
            deferrable = conf.getboolean("operators", "default_deferrable", fallback=False)
        self.deferrable = deferrable

    @abstractmethod
    def build_spec(self) -> dict[str, Any]:
        """The spec's fields, from this sensor's attributes after rendering."""

    @abstractmethod
    def look(self, spec: Any) -> Result | None:
        """What is waited for, or ``None`` while it is not there."""

    @abstractmethod
    def trigger(self, spec: dict[str, Any]) -> BaseTrigger:
        """What looks in the triggerer."""

    def poke(self, context: Context) -> PokeReturnValue:
        with no_retry_in_vain():
            spec = parse(self.spec, self.build_spec(), f"Task {self.task_id!r}")
            found = self.look(spec)
        if found is not None:
            return PokeReturnValue(True, self._told(found.model_dump(mode="json")))
        if self.deferrable:
            self.defer(
                trigger=self.trigger(spec.model_dump(mode="json")),
                method_name="execute_complete",
                timeout=timedelta(seconds=self.timeout),
            )
        return PokeReturnValue(False)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Where a task goes on that was deferred."""
        with no_retry_in_vain():
            if "error" in event:
                raise by_name(event["error"])(event["message"])
        return self._told(event["result"])

    def _told(self, result: dict[str, Any]) -> dict[str, Any]:
        self.log.info("%s", result["summary"])
        return result
