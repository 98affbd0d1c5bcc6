"""The base class of the operator links."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class ResultLink(BaseOperatorLink):
    """A link that is derived from the result of a finished task. A task without a result has no link."""

    @abstractmethod
    def address(self, operator: Any, result: dict[str, Any]) -> str:
        """Return the address of the link, or an empty string if ``result`` contains no address."""

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        from airflow.sdk.execution_time.xcom import XCom

        result = XCom.get_value(ti_key=ti_key, key="return_value")
        return self.address(operator, result) if isinstance(result, dict) else ""
