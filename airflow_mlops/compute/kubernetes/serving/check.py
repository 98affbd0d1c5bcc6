"""Send requests to the servers of an endpoint, and compare their versions and scores with the expected ones."""

from __future__ import annotations

import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.kubernetes.serving.manifests import PORT
from airflow_mlops.core.errors import ComputeError, DeploymentError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.stages.deploy.spec import Check

# Processors round sums of single precision differently.
_TOLERANCE = 1e-6
_SECONDS, _ATTEMPTS, _PAUSE = 10.0, 5, 2.0
# Requests to addresses of pods never go through a proxy.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def verify(pods: Sequence[Json], ref: ModelVersionRef, check: Check, token: str | None, *, follows: bool) -> None:
    """Check that each pod serves the expected version, and computes the expected scores.

    :param pods: the pods of the endpoint
    :param ref: the expected version
    :param check: rows, and the scores that the version must compute for them. A relative or absolute difference of 1e-6
        is accepted
    :param token: bearer token of the servers; ``None`` if they need none
    :param follows: whether the servers follow the champion
    :raises DeploymentError: a pod cannot be reached, or gives another answer
    """
    for pod in pods:
        # Requests without a version are answered by the first version in the list, or by a canary.
        versions = _ask(pod, ref, "", None, token).get("versions") or ["?"]
        if versions[0] != str(ref.version):
            why = ", so the champion has changed in the meantime. Clear the task" if follows else ""
            raise _final(f"{_name(pod)} answers with v{versions[0]} instead of v{ref.version}{why}.")
        # These rows come from no client, so they must not be logged for monitoring.
        body = {"id": "airflow-mlops-check", "rows": check.rows, "log": False}
        found = _ask(pod, ref, f"/versions/{ref.version}/predict", body, token)
        scores = [item.get("score") for item in found.get("predictions", [])]
        if len(scores) != len(check.scores) or not all(map(_equal, scores, check.scores)):
            raise _final(
                f"{_name(pod)} answers with {ref}, but the scores of its input example are {scores} instead of "
                f"{check.scores}. Check that the image has the versions of the libraries with which Airflow's worker scores."
            )


def problem(pods: Sequence[Json]) -> str:
    """Request the readiness of the servers in the pods, to find out why they are not ready.

    :return: the first reason that a server gives; empty if none gives a reason
    """
    for pod in pods:
        try:
            _call(pod, "/v2/health/ready", None, {})
        except urllib.error.HTTPError as error:
            if text := _error(error):
                return text
        except (OSError, ValueError, KeyError):
            continue
    return ""


def unanswered(pods: Sequence[Json]) -> str:
    """Request the readiness of the servers in the pods, to find out whether all of them answer.

    :return: the first problem as a phrase; empty if all pods answer that they are ready
    """
    for pod in pods:
        try:
            _call(pod, "/v2/health/ready", None, {})
        except urllib.error.HTTPError as error:
            return f"{_name(pod)} answers with HTTP status {error.code}: {_error(error) or 'no reason'}"
        except (OSError, ValueError, KeyError) as error:
            return f"{_name(pod)} gives no valid response: {type(error).__name__}: {error}"
    return ""


def _ask(pod: Json, ref: ModelVersionRef, path: str, body: Any, token: str | None) -> dict[str, Any]:
    path = f"/v2/models/{quote(ref.model, safe='')}{path}"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    for remaining in reversed(range(_ATTEMPTS)):
        try:
            return _call(pod, path, body, headers)
        except urllib.error.HTTPError as error:
            if error.code == 401:
                raise _final(
                    f"{_name(pod)} requires a token. Set token_conn_id= to an Airflow connection whose password is the token."
                ) from None
            if error.code != 503 or not remaining:
                raise _final(
                    f"{_name(pod)} answers with HTTP status {error.code} ({_error(error)}) to a request for {ref}."
                ) from None
        except (OSError, ValueError, KeyError) as error:
            if not remaining:
                raise DeploymentError(
                    f"{_name(pod)} gives no valid response at {pod['status'].get('podIP')}:{PORT} "
                    f"({type(error).__name__}: {error}). Check that Airflow's worker can reach the addresses of pods."
                ) from None
        time.sleep(_PAUSE)
    raise AssertionError


def _call(pod: Json, path: str, body: Any, headers: dict[str, str]) -> dict[str, Any]:
    address = pod["status"]["podIP"]
    host = f"[{address}]" if ":" in address else address
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(
        f"http://{host}:{PORT}{path}", data, {"Content-Type": "application/json", **headers}
    )
    with _OPENER.open(request, timeout=_SECONDS) as response:
        found = json.loads(response.read())
    if not isinstance(found, dict):
        raise ValueError(f"{path} does not answer with a JSON object")
    return found


def _error(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _equal(found: Any, expected: float | None) -> bool:
    if found is None or expected is None:
        return found is expected
    return math.isclose(found, expected, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


def _name(pod: Json) -> str:
    return f"Pod {pod['metadata']['name']!r}"


def _final(message: str) -> ComputeError:
    error = DeploymentError(message)
    error.retryable = False
    return error
