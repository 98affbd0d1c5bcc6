"""Find and remove the endpoint of a model. Importing this module imports the Kubernetes client."""

from __future__ import annotations

from airflow_mlops.compute.kubernetes.serving.api import EndpointApi
from airflow_mlops.compute.kubernetes.serving.errors import explained
from airflow_mlops.compute.kubernetes.serving.restoring import remove, wait_until_gone
from airflow_mlops.compute.kubernetes.serving.target import default_name
from airflow_mlops.core.errors import SpecError
from airflow_mlops.registry.records.endpoint import Endpoint


def find(name: str | None, model: str, namespace: str | None, conn_id: str) -> Endpoint | None:
    """Return the endpoint of a model; ``None`` if the model has no endpoint.

    :param name: name of the objects; ``None`` to derive it from the name of the model
    :param model: name of the registered model
    :param namespace: namespace of the objects; ``None`` for the namespace of the Airflow connection
    :param conn_id: id of the Airflow connection to the cluster
    :raises SpecError: the objects of this name serve another model
    :raises ComputeError: the cluster refuses the request, or does not answer
    """
    api = EndpointApi(name or default_name(model), namespace, conn_id)
    try:
        record = api.record()
    except Exception as error:  # noqa: BLE001 - becomes an error of this package
        raise explained(error, api) from None
    if record.model not in (None, model):
        raise SpecError(f"The endpoint {api} serves the model {record.model!r}, and not {model!r}. Set another name=.")
    found = record.good or record.trying
    return found.endpoint if found is not None else None


def remove_endpoint(endpoint: Endpoint, conn_id: str) -> None:
    """Delete the objects of an endpoint, and wait until its pods have ended.

    :param endpoint: the endpoint
    :param conn_id: id of the Airflow connection to the cluster
    :raises ComputeError: the cluster refuses the request, or a pod does not end
    """
    api = EndpointApi(endpoint.name, endpoint.namespace, conn_id)
    try:
        record = api.record()
        remove(api, record)
        if found := record.good or record.trying:
            wait_until_gone(api, found.manifests[0])
    except Exception as error:  # noqa: BLE001 - becomes an error of this package
        raise explained(error, api) from None
