"""Turn the calls of the API into routes: errors become answers, and each request is counted and logged."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import FeatureStoreError, MLOpsError, SchemaError
from airflow_mlops.serving.messages import RefusedError, json_answer
from airflow_mlops.serving.metrics import Metrics

if TYPE_CHECKING:
    from fastapi import Request, Response

access = logging.getLogger("airflow_mlops.serving.access")


def answered(
    call: Callable[[Request], Any], name: str, metrics: Metrics, authorize: Callable[[Request], None] | None
) -> Callable[[Request], Any]:
    """Return a route that turns errors into answers, and counts and logs the request.

    :param call: the call of the API
    :param name: name of the call, for the metrics and the access log
    :param authorize: function that refuses requests without a token; ``None`` if the call needs none
    """

    async def route(request: Request) -> Response:
        began = time.perf_counter()
        try:
            if authorize is not None:
                authorize(request)
            response: Response = await call(request)
        except RefusedError as error:
            response = json_answer({"error": str(error)}, error.status)
        except SchemaError as error:
            response = json_answer({"error": str(error)}, 422)
        except FeatureStoreError as error:
            response = json_answer({"error": str(error)}, 503)
        except MLOpsError as error:
            response = json_answer({"error": str(error)}, 500)
        seconds = time.perf_counter() - began
        metrics.requests.labels(name, response.status_code).inc()
        if name in ("infer", "predict"):
            metrics.seconds.observe(seconds)
            access.info("%s", _Line(request, response, name, seconds))
        return response

    return route


class _Line:
    """A line of the access log, as JSON with the fields that Logstash expects."""

    def __init__(self, request: Request, response: Response, call: str, seconds: float) -> None:
        self._request, self._response, self._call, self._seconds = request, response, call, seconds

    def __str__(self) -> str:
        client = self._request.client
        return json.dumps(
            {
                "@timestamp": datetime.now(timezone.utc).isoformat(),
                "@version": "1",
                "message": f"{self._request.method} {self._request.url.path} {self._response.status_code}",
                "call": self._call,
                "client": client.host if client else None,
                "status": self._response.status_code,
                "milliseconds": round(1000 * self._seconds, 3),
                "bytes": len(self._response.body),
            }
        )


async def unknown(request: Request, error: Exception) -> Response:
    """Answer a request for a path or a method that the server does not have."""
    status: int = getattr(error, "status_code", 404)
    return json_answer({"error": f"This server has no {request.method} {request.url.path}."}, status)
