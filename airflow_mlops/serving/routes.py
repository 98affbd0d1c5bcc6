"""Create routes from functions that compute an answer. Errors become answers, and requests are counted and logged."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import FeatureStoreError, MLOpsError, SchemaError
from airflow_mlops.serving.access import AccessLog
from airflow_mlops.serving.messages import RefusedError, json_answer
from airflow_mlops.serving.metrics import Metrics

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


def answered(
    call: Callable[[Request], Any],
    name: str,
    metrics: Metrics,
    access: AccessLog,
    authorize: Callable[[Request], None] | None,
) -> Callable[[Request], Any]:
    """Return a route that turns errors into answers, and counts and logs the request.

    :param call: function that computes the answer to a request
    :param name: name of the function, for the metrics and the access log
    :param metrics: the metrics of the server
    :param access: the access log
    :param authorize: function that refuses requests without a token; ``None`` if no token is needed
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
        metrics.count(name, response.status_code)
        if name in ("infer", "predict"):
            metrics.seconds.observe(seconds)
            access.add(request, response, name, seconds)
        return response

    return route


async def unknown(request: Request, error: Exception) -> Response:
    """Answer a request for a path or a method that the server does not have."""
    status: int = getattr(error, "status_code", 404)
    return json_answer({"error": f"This server has no {request.method} {request.url.path}."}, status)
