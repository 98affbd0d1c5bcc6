"""What every place that runs steps has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import ConnectionNotFoundError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.core.calls import StepCall


class Compute(ABC):
    """A place that runs steps. Subclasses are small descriptions, made while a DAG is parsed; they import what
    they need when a step runs."""

    template_fields: ClassVar[Sequence[str]] = ()

    @abstractmethod
    def run(self, call: StepCall, conn_ids: set[str], context: Context, log: Any) -> dict[str, Any]:
        """Run ``call`` and return its result, which is in the artifact store by then.

        :param conn_ids: the Airflow connections the step will ask for
        :raises MLOpsError: the step failed, or could not be run here
        """

    def resume(self, call: StepCall, event: dict[str, Any], context: Context, log: Any) -> dict[str, Any]:
        """Go on where :meth:`run` deferred the task.

        :param event: what the trigger says
        """
        raise NotImplementedError(f"{type(self).__name__} never defers.")

    def facts(self) -> dict[str, str]:
        """What is known of the place after the step has run there, for the record."""
        return {}

    def serialize(self) -> dict[str, Any]:
        """What the task's rendered fields show."""
        return {}

    def on_kill(self) -> None:  # noqa: B027 - a step in the task's own process ends with it
        """Stop what runs. Called when a user ends the task, never on a normal exit."""


def airflow_connection(conn_id: str) -> ConnectionInfo:
    """Look a connection up in Airflow, secrets backends included.

    :raises ConnectionNotFoundError: Airflow has no such connection
    """
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowException

    try:
        return connection_info(conn_id, BaseHook.get_connection(conn_id))
    except AirflowException:
        raise undefined(conn_id) from None


def undefined(conn_id: str) -> ConnectionNotFoundError:
    """The error where Airflow has no such connection."""
    return ConnectionNotFoundError(
        f"Connection {conn_id!r} is not defined in Airflow: add it under Admin, Connections, "
        f"with `airflow connections add {conn_id}`, or as AIRFLOW_CONN_{conn_id.upper()}."
    )


def connection_info(conn_id: str, found: Any) -> ConnectionInfo:
    """A connection of Airflow's, as steps see it."""
    return ConnectionInfo(
        conn_id=conn_id,
        conn_type=found.conn_type or "",
        host=found.host,
        login=found.login,
        password=found.password,
        schema=found.schema,
        port=found.port,
        extra=found.extra_dejson,
    )
