"""The errors of requests about an endpoint. Importing this module imports the Kubernetes client."""

from __future__ import annotations

from kubernetes.client.exceptions import ApiException

from airflow_mlops.compute.kubernetes import failures
from airflow_mlops.compute.kubernetes.serving.api import EndpointApi
from airflow_mlops.core.errors import ComputeError, MLOpsError, SpecError, one_line


def explained(error: BaseException, api: EndpointApi) -> MLOpsError:
    """Convert an exception of a request about an endpoint to the error with which the task fails."""
    if isinstance(error, MLOpsError):
        return error
    if isinstance(error, ApiException):
        return _refused(error.status or 0, str(error.body or error.reason or ""), api)
    if isinstance(error, Exception):
        return ComputeError(f"The connection to the cluster of {api} was lost ({one_line(error, 300)}).")
    return ComputeError(f"The task was ended while it waited for {api} ({one_line(error, 300)}).")


def _refused(status: int, body: str, api: EndpointApi) -> MLOpsError:
    found = failures.refused(status, body, api.namespace)
    if isinstance(found, SpecError):
        return SpecError(str(found).replace("does not accept the pod", f"does not accept the objects of {api}", 1))
    return found
