"""The HTTP interface of the server."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from pydantic_core import from_json, to_json
from starlette.requests import ClientDisconnect

from airflow_mlops import __version__
from airflow_mlops.core.errors import FeatureStoreError, MLOpsError, SchemaError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.serving import protocol
from airflow_mlops.serving.canary import Canary
from airflow_mlops.serving.following import Following
from airflow_mlops.serving.log import Answer, PredictionSpool, open_spool
from airflow_mlops.serving.metrics import Metrics
from airflow_mlops.serving.online_features import OnlineFeatures
from airflow_mlops.serving.other_columns import converted
from airflow_mlops.serving.rows import Rows
from airflow_mlops.serving.shadowing import Shadowing
from airflow_mlops.serving.spec import CANARY_SHARE, ServeSpec
from airflow_mlops.serving.versions import Served, Versions

log = logging.getLogger(__name__)
T = TypeVar("T")

access = logging.getLogger("airflow_mlops.serving.access")

# Requests with more rows are scored in a thread, and larger bodies are read in one, so that other requests need not wait for
# them.
_ROWS_HERE, _BYTES_HERE = 256, 65_536
_JSON = "application/json"
_ID_LENGTH = 200
_BINARY_HEADER = "inference-header-content-length"


class _RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Endpoint:
    """The calls of the API.

    :param spec: settings of the server
    :param versions: the loaded versions
    :param problem: function that returns why no version, or not the newest, is loaded
    :param spool: log of the predictions; ``None`` if they are not logged
    :param shadowing: sends rows to a version in the shadow; ``None`` if there is none
    :param canary: chooses requests that another version answers; ``None`` if there is none
    :param canary_spool: log of the predictions of this version
    """

    def __init__(
        self,
        spec: ServeSpec,
        versions: Versions,
        metrics: Metrics,
        problem: Callable[[], str],
        spool: PredictionSpool | None,
        shadowing: Shadowing | None = None,
        canary: Canary | None = None,
        canary_spool: PredictionSpool | None = None,
    ) -> None:
        self._shadowing, self._canary, self._canary_spool = shadowing, canary, canary_spool
        self._spec, self._versions, self._metrics, self._problem, self._spool = spec, versions, metrics, problem, spool
        self._token = spec.token.get_secret_value().encode() if spec.token else None

    async def server(self, request: Request) -> Response:
        """Answer ``GET /v2``: name and version of the server."""
        return _json({"name": "airflow-mlops", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def live(self, request: Request) -> Response:
        """Answer ``GET /v2/health/live``: the server runs."""
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """Answer ``GET /v2/health/ready``: a version is loaded."""
        ready = self._versions.champion is not None
        return _json({"ready": ready} if ready else {"ready": False, "error": self._problem()}, 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        """Answer ``GET /metrics``, in Prometheus' text format."""
        champion = self._versions.champion
        self._metrics.version.set(champion.ref.version if champion else 0)
        canary = self._canary.versions.champion if self._canary is not None else None
        withdrawn = self._canary.withdrawn if self._canary is not None else None
        stays = canary is None or canary.ref.version != withdrawn
        self._metrics.canary_version.set(canary.ref.version if canary and stays else 0)
        self._metrics.canary_withdrawn.set(0 if stays else withdrawn or 0)
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def model(self, request: Request) -> Response:
        """Answer ``GET /v2/models/M[/versions/V]``: inputs and outputs of the model."""
        return _json(protocol.metadata(self._served(request), self._numbers))

    async def model_ready(self, request: Request) -> Response:
        """Answer ``GET /v2/models/M[/versions/V]/ready``."""
        served = self._served(request)
        return _json({"name": served.ref.model, "ready": True})

    async def infer(self, request: Request) -> Response:
        """Answer ``POST /v2/models/M[/versions/V]/infer``, of the Open Inference Protocol."""
        served = self._served(request)
        data = await self._body(request)
        header = request.headers.get(_BINARY_HEADER)
        if header is not None and not (header.isdigit() and int(header) <= len(data)):
            raise _RefusedError(
                400, f"The header Inference-Header-Content-Length is {header!r}, but the body has {len(data)} bytes."
            )
        size = len(data) if header is None else int(header)
        large = len(data) > _BYTES_HERE
        body = await _run(large, _object, data[:size])
        protocol.requested(body)  # refuses before the rows are scored
        rows = await _run(large, protocol.read, body, memoryview(data)[size:], served)
        request_id = _request_id(request, body)
        served, rows = self._routed(request, served, rows, request_id)
        found = await self._predict(served, rows, request_id)
        return await _run(large, _tensors, served, found, request_id, body)

    async def predict(self, request: Request) -> Response:
        """Answer ``POST /v2/models/M[/versions/V]/predict``, which takes rows, or entities whose features are looked up."""
        served = self._served(request)
        data = await self._body(request)
        large = len(data) > _BYTES_HERE
        body = await _run(large, _object, data)
        if type(logged := body.get("log", True)) is not bool:
            raise SchemaError("`log` is neither true nor false.")
        request_id = _request_id(request, body)
        rows, missing = await self._rows(served, body, large)
        served, rows = self._routed(request, served, rows, request_id)
        found = await self._predict(served, rows, request_id, logged=logged)
        return await _run(large, _predictions, served, found, request_id, missing)

    async def _rows(self, served: Served, body: dict[str, Any], large: bool) -> tuple[Rows, list[list[str]]]:
        """Return the rows of a request, and for each entity its looked-up features that are null.

        :param large: whether the rows are read in a thread
        """
        given = {name: body[name] for name in ("rows", "entities") if name in body}
        if len(given) != 1 or not isinstance(next(iter(given.values())), list):
            raise SchemaError(
                "The request has no list `rows`. Send the rows as objects with a field for each feature, or a list `entities` "
                "of objects with the keys by which features are looked up."
            )
        if "rows" in given:
            return await _run(large, served.columns.rows, given["rows"]), []
        if served.lookup is None:
            raise SchemaError(
                f"No features are looked up for {served.ref}, because "
                + ("none of them comes from Feast" if self._spec.feast_repo else "the server has no --feast-repo")
                + ". Send `rows` with all features."
            )
        began = time.perf_counter()
        lookup = served.lookup
        found = await asyncio.get_running_loop().run_in_executor(lookup.thread, lookup.rows, given["entities"])
        self._metrics.lookups.observe(time.perf_counter() - began)
        return found

    def authorize(self, request: Request) -> None:
        """Refuse a request for a model that does not carry the token."""
        if self._token is None:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secrets.compare_digest(token.strip().encode(), self._token):
            raise _RefusedError(401, "Send the token of this server as `Authorization: Bearer TOKEN`.")

    def _served(self, request: Request) -> Served:
        model, version = request.path_params["model"], request.path_params.get("version")
        if model != self._spec.model:
            raise _RefusedError(404, f"This server serves the model {self._spec.model!r} only.")
        if self._versions.champion is None:
            raise _RefusedError(503, self._problem())
        served = self._versions.find(version)
        if served is None and self._canary is not None:
            served = self._canary.versions.find(version)
        if served is None:
            raise _RefusedError(404, f"Version {version} is not loaded. Loaded are {', '.join(self._numbers)}.")
        return served

    @property
    def _numbers(self) -> list[str]:
        """Return the numbers of the loaded versions, the champion first."""
        others = self._canary.versions.numbers if self._canary is not None else []
        return list(dict.fromkeys([*self._versions.numbers, *others]))

    def _routed(self, request: Request, served: Served, rows: Rows, request_id: str) -> tuple[Served, Rows]:
        """Return the version that answers, and the rows with its fields. A request that names a version gets this version."""
        if self._canary is None or "version" in request.path_params:
            return served, rows
        chosen = self._canary.choose(served, rows, request_id)
        return (served, rows) if chosen is served else (chosen, converted(rows, chosen.columns))

    async def _body(self, request: Request) -> bytes:
        if (encoding := request.headers.get("content-encoding", "identity")) != "identity":
            raise _RefusedError(415, f"The body has the Content-Encoding {encoding[:60]!r}. Send it uncompressed.")
        limit = self._spec.max_body
        too_large = _RefusedError(413, f"The body is larger than {limit:,} bytes. Send fewer rows in a request.")
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise too_large

        async def read() -> bytes:
            parts, size = [], 0
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_large
                parts.append(part)
            return b"".join(parts)

        try:
            return await asyncio.wait_for(read(), self._spec.request_seconds)
        except asyncio.TimeoutError:
            raise _RefusedError(408, f"The body did not arrive within {self._spec.request_seconds:g} s.") from None
        except ClientDisconnect:
            # Nobody reads the answer; the status is that of nginx.
            raise _RefusedError(499, "The client closed the connection before it had sent the body.") from None

    def _count(self, served: Served, seconds: float, *, failed: bool = False) -> None:
        version = str(served.ref.version)
        self._metrics.version_requests.labels(version, "failed" if failed else "answered").inc()
        self._metrics.version_seconds.labels(version).observe(seconds)
        if self._canary is not None:
            self._canary.answered(self._versions.champion, served, 1000 * seconds, failed=failed)

    async def _predict(self, served: Served, rows: Rows, request_id: str, *, logged: bool = True) -> Predictions:
        began = time.perf_counter()
        try:
            if rows.count > _ROWS_HERE:
                found = await asyncio.get_running_loop().run_in_executor(None, served.predict, rows)
            else:
                found = served.predict(rows)
        except Exception:
            self._count(served, time.perf_counter() - began, failed=True)
            # The text of a library is for the log only.
            log.exception("%s could not predict the rows of a request.", served.ref)
            raise _RefusedError(500, f"{served.ref} could not predict these rows.") from None
        seconds = time.perf_counter() - began
        self._count(served, seconds)
        self._metrics.rows.observe(rows.count)
        spool = self._spool
        if self._canary is not None and self._canary.versions.champion is served:
            spool = self._canary_spool
        if spool is not None and rows.count and logged:
            answer = Answer(served, rows, found, request_id, time.time(), 1000 * seconds)
            spool.add(answer)
            if self._shadowing is not None and served is self._versions.champion:
                self._shadowing.offer(answer)
        return found


def create_app(spec: ServeSpec) -> FastAPI:
    """Return the application, which loads the champion when it starts.

    :raises ConnectionNotFoundError: the connection with the key of the hashes does not exist
    :raises SpecError: this connection has no password, or one that is too short
    """
    store, versions, metrics = ArtifactStore(spec.store), Versions(), Metrics()
    spool = open_spool(spec, store, metrics) if spec.log else None
    features = OnlineFeatures(spec.feast_repo) if spec.feast_repo else None
    following = Following(spec, store, versions, features=features)
    shadowing = Shadowing(spec, metrics) if spec.shadow else None
    canary, canary_following, canary_spool = None, None, None
    if spec.canary is not None:
        share = CANARY_SHARE if spec.canary_share is None else spec.canary_share
        canary = Canary(spec.model, Versions(), share, spec.canary_key)
        canary_following = Following(spec, store, canary.versions, spec.canary, features=features)
        canary_spool = open_spool(spec, store, metrics, "canary") if spec.log else None
    endpoint = Endpoint(spec, versions, metrics, lambda: following.problem, spool, shadowing, canary, canary_spool)
    started = [item for item in (following, canary_following, spool, canary_spool, shadowing) if item is not None]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for item in started:
            item.start()
        yield
        await asyncio.gather(*(asyncio.get_running_loop().run_in_executor(None, item.stop) for item in started))

    app = FastAPI(
        title=f"airflow-mlops: {spec.model}", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    for middle in ("", "/versions/{version}"):
        path = "/v2/models/{model}" + middle
        for end, call, name in (("", endpoint.model, "model"), ("/ready", endpoint.model_ready, "model ready")):
            app.add_route(path + end, _answered(call, name, metrics, endpoint.authorize), methods=["GET"])
        for end, call, name in (("/infer", endpoint.infer, "infer"), ("/predict", endpoint.predict, "predict")):
            app.add_route(path + end, _answered(call, name, metrics, endpoint.authorize), methods=["POST"])
    for path, call, name in (
        ("/v2", endpoint.server, "server"),
        ("/v2/health/live", endpoint.live, "live"),
        ("/v2/health/ready", endpoint.ready, "ready"),
        ("/metrics", endpoint.metrics, "metrics"),
    ):
        app.add_route(path, _answered(call, name, metrics, None), methods=["GET"])
    for status in (404, 405):
        # Without it, the message would be in the field `detail`, where clients of the protocol do not look.
        app.add_exception_handler(status, _unknown)
    app.state.versions, app.state.following = versions, following
    return app


def _answered(
    call: Callable[[Request], Any], name: str, metrics: Metrics, authorize: Callable[[Request], None] | None
) -> Callable[[Request], Any]:
    """Return a route that turns errors into answers, and counts and logs the request."""

    async def route(request: Request) -> Response:
        began = time.perf_counter()
        try:
            if authorize is not None:
                authorize(request)
            response: Response = await call(request)
        except _RefusedError as error:
            response = _json({"error": str(error)}, error.status)
        except SchemaError as error:
            response = _json({"error": str(error)}, 422)
        except FeatureStoreError as error:
            response = _json({"error": str(error)}, 503)
        except MLOpsError as error:
            response = _json({"error": str(error)}, 500)
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


async def _run(large: bool, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function, in a thread if the request is large."""
    if not large:
        return function(*arguments)
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


def _tensors(served: Served, found: Predictions, request_id: str, body: dict[str, Any]) -> Response:
    described, buffers = protocol.answer(served, found, request_id, body)
    if not buffers:
        return _json(described)
    content = to_json(described)
    headers = {_BINARY_HEADER: str(len(content))}
    return Response(b"".join([content, *buffers]), headers=headers, media_type="application/octet-stream")


def _predictions(served: Served, found: Predictions, request_id: str, missing: Sequence[list[str]]) -> Response:
    predictions = [
        {"prediction": prediction, "score": score}
        for prediction, score in zip(found.prediction.tolist(), found.score.tolist(), strict=True)
    ]
    for prediction, names in zip(predictions, missing, strict=False):
        prediction["missing"] = names
    return _json(
        {"id": request_id, "model": served.ref.model, "version": served.ref.version, "predictions": predictions}
    )


async def _unknown(request: Request, error: Exception) -> Response:
    status: int = getattr(error, "status_code", 404)
    return _json({"error": f"This server has no {request.method} {request.url.path}."}, status)


def _json(value: Any, status: int = 200) -> Response:
    return Response(to_json(value), status, media_type=_JSON)


def _object(data: bytes) -> dict[str, Any]:
    try:
        body = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise _RefusedError(400, f"The body is not JSON: {error}.") from None
    if not isinstance(body, dict):
        raise SchemaError("The body is not a JSON object.")
    return body


def _request_id(request: Request, body: dict[str, Any]) -> str:
    """Return the id of a request: the field ``id``, the header ``X-Request-Id``, or a new one."""
    given = body.get("id") or request.headers.get("x-request-id") or uuid.uuid4().hex
    if not isinstance(given, str) or len(given) > _ID_LENGTH:
        raise SchemaError(f"The id of the request is not a text of at most {_ID_LENGTH} characters.")
    return given
