"""Routes of the HTTP API, which turn errors into responses, and count and log requests."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from airflow_mlops.core.errors import FeatureStoreError, MLOpsError, SchemaError
from airflow_mlops.serving.http.access import AccessLog
from airflow_mlops.serving.http.messages import json_answer
from airflow_mlops.serving.metrics import Metrics
from airflow_mlops.serving.refusals import RefusedError

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)


class Answered:
    """A route that turns errors into responses, and counts and logs the request.

    The route is an ASGI application. Starlette would wrap a function in several other functions, which takes time.

    :param call: function that computes the response to a request
    :param name: name of the function, for the metrics and the access log
    :param metrics: the metrics of the server
    :param access: the access log
    :param authorize: function that raises an error for requests without the token; ``None`` if no token is needed
    """

    def __init__(
        self,
        call: Callable[[Request], Any],
        name: str,
        metrics: Metrics,
        access: AccessLog,
        authorize: Callable[[Request], None] | None,
    ) -> None:
        self._call, self._name, self._authorize = call, name, authorize
        self._metrics, self._access = metrics, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request = Request(scope, receive, send)
        began = time.perf_counter()
        try:
            if self._authorize is not None:
                self._authorize(request)
            response: Response = await self._call(request)
        except RefusedError as error:
            response = json_answer({"error": str(error)}, error.status)
        except SchemaError as error:
            response = json_answer({"error": str(error)}, 422)
        except FeatureStoreError as error:
            response = json_answer({"error": str(error)}, 503)
        except MLOpsError as error:
            response = json_answer({"error": str(error)}, 500)
        except Exception:
            log.exception("A request could not be answered.")
            response = json_answer({"error": "The server could not answer the request. Its log says why."}, 500)
        seconds = time.perf_counter() - began
        self._metrics.count(self._name, response.status_code)
        if self._name in ("infer", "predict"):
            self._metrics.seconds.observe(seconds)
            self._access.add(request, response, self._name, seconds)
        await response(scope, receive, send)


async def unknown(request: Request, error: Exception) -> Response:
    """Answer a request for a path or a method that the server does not have."""
    status: int = getattr(error, "status_code", 404)
    return json_answer({"error": f"This server has no {request.method} {request.url.path[:200]}."}, status)
