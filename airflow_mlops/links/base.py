"""What all links have in common: they read the result that the task returned."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class ResultLink(BaseOperatorLink):
    """A link made from a task's result, when the task has ended. A task without a result has no link."""

    @abstractmethod
    def address(self, operator: Any, result: dict[str, Any]) -> str:
        """The address for ``result``, or an empty string."""

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        from airflow.sdk.execution_time.xcom import XCom

        result = XCom.get_value(ti_key=ti_key, key="return_value")
        return self.address(operator, result) if isinstance(result, dict) else ""
