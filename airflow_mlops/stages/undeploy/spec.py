"""Spec and result of the stage ``undeploy``."""

from __future__ import annotations

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.registry.records.endpoint import Endpoint


class UndeploySpec(Spec):
    """Parameters of the removal of an endpoint.

    :param model: name of the registered model
    :param endpoint: the endpoint that exists; ``None`` if there is none
    """

    model: Name
    endpoint: Endpoint | None = None


class UndeployResult(Result):
    """The result of the removal of an endpoint.

    :param removed: whether there was an endpoint
    :param endpoint: the removed endpoint
    :param ledger_url: URL of the ledger entry; ``None`` if there was no endpoint
    """

    removed: bool
    model: str
    endpoint: Endpoint | None = None
    ledger_url: str | None = None
