"""The calls of the HTTP API."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json
from starlette.responses import Response

from airflow_mlops import __version__
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.columns import INTERVAL_COLUMNS
from airflow_mlops.metrics.interval_ends import ends
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.serving.canary.answering import Canary
from airflow_mlops.serving.http import protocol
from airflow_mlops.serving.http.messages import (
    VERSION,
    header,
    in_thread_if,
    json_answer,
    json_object,
    read_body,
    request_id_of,
)
from airflow_mlops.serving.log.spool import Answer
from airflow_mlops.serving.metrics import Metrics
from airflow_mlops.serving.refusals import RefusedError
from airflow_mlops.serving.rows.other_columns import converted
from airflow_mlops.serving.rows.request import Rows
from airflow_mlops.serving.sending.answers import Writing
from airflow_mlops.serving.sending.explanations import Explained, Explaining
from airflow_mlops.serving.sending.shadow import Shadowing
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions.loaded import Served, Versions

if TYPE_CHECKING:
    from starlette.requests import Request

log = logging.getLogger(__name__)

# Requests with more rows are scored in a thread, and larger bodies are parsed in a thread, so that other requests do
# not have to wait.
_ROWS_HERE, _BYTES_HERE = 256, 65_536
# The fields of a request to /predict, in the order of the documentation.
_FIELDS = dict.fromkeys(("id", "rows", "entities", "log", "explain"))
_BINARY_HEADER = "inference-header-content-length"


class Endpoint:
    """The calls of the HTTP API.

    :param spec: settings of the server
    :param versions: the loaded versions
    :param metrics: the metrics of the server
    :param problem: function that returns why no version, or not the newest version, is loaded
    :param writing: log of the predictions; ``None`` if they are not logged
    :param shadowing: sends rows to a version in the shadow; ``None`` if there is none
    :param canary: chooses requests that another version answers; ``None`` if there is none
    """

    def __init__(
        self,
        spec: ServeSpec,
        versions: Versions,
        metrics: Metrics,
        problem: Callable[[], str],
        writing: Writing | None,
        shadowing: Shadowing | None = None,
        canary: Canary | None = None,
    ) -> None:
        self.explaining = Explaining(spec.load_seconds)
        self._writing, self._shadowing, self._canary = writing, shadowing, canary
        self._spec, self._versions, self._metrics, self._problem = spec, versions, metrics, problem
        self._token = spec.token.get_secret_value().encode() if spec.token else None

    async def server(self, request: Request) -> Response:
        """Answer ``GET /v2``: name and version of the server."""
        return json_answer({"name": "airflow-mlops", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def live(self, request: Request) -> Response:
        """Answer ``GET /v2/health/live``: the server runs."""
        return json_answer({"live": True})

    async def ready(self, request: Request) -> Response:
        """Answer ``GET /v2/health/ready``: a version is loaded."""
        ready = self._versions.champion is not None
        return json_answer(
            {"ready": ready} if ready else {"ready": False, "error": self._problem()}, 200 if ready else 503
        )

    async def metrics(self, request: Request) -> Response:
        """Answer ``GET /metrics``, in Prometheus' text format."""
        champion = self._versions.champion
        self._metrics.version.set(champion.ref.version if champion else 0)
        canary = self._canary.versions.champion if self._canary is not None else None
        withdrawn = self._canary.withdrawn if self._canary is not None else None
        answers = canary is not None and canary.ref.version != withdrawn
        self._metrics.canary_version.set(canary.ref.version if canary and answers else 0)
        self._metrics.canary_share.set(self._canary.share if self._canary is not None and answers else 0)
        self._metrics.canary_withdrawn.set(0 if answers else withdrawn or 0)
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def model(self, request: Request) -> Response:
        """Answer ``GET /v2/models/M[/versions/V]``: inputs and outputs of the model."""
        return json_answer(protocol.metadata(self._served(request), self._numbers))

    async def model_ready(self, request: Request) -> Response:
        """Answer ``GET /v2/models/M[/versions/V]/ready``."""
        served = self._served(request)
        return json_answer({"name": served.ref.model, "ready": True})

    async def infer(self, request: Request) -> Response:
        """Answer ``POST /v2/models/M[/versions/V]/infer``, of the Open Inference Protocol."""
        served = self._served(request)
        data = await read_body(request, self._spec.max_body, self._spec.request_seconds)
        length = header(request, _BINARY_HEADER.encode())
        # A length of more digits than this cannot be right, and Python converts at most 4300 digits.
        if length is not None and not (re.fullmatch("[0-9]{1,18}", length) and int(length) <= len(data)):
            raise RefusedError(
                400, f"The header Inference-Header-Content-Length is {length!r}, but the body has {len(data)} bytes."
            )
        size = len(data) if length is None else int(length)
        large = len(data) > _BYTES_HERE
        body = await in_thread_if(large, json_object, data[:size])
        request_id = request_id_of(request, body)
        protocol.requested(body)  # refuses before the rows are scored
        rows = await in_thread_if(large, protocol.read, body, memoryview(data)[size:], served)
        served, rows = self._routed(request, served, rows, request_id)
        found, _ = await self._predict(served, rows, request_id, routed=_is_routed(request))
        return await in_thread_if(large, _tensors, served, found, request_id, body)

    async def predict(self, request: Request) -> Response:
        """Answer ``POST /v2/models/M[/versions/V]/predict`` with rows, or entities whose features are looked up."""
        served = self._served(request)
        data = await read_body(request, self._spec.max_body, self._spec.request_seconds)
        large = len(data) > _BYTES_HERE
        body = await in_thread_if(large, json_object, data)
        request_id = request_id_of(request, body)
        if unknown := body.keys() - _FIELDS.keys():
            raise SchemaError(
                f"The request has the unknown field {min(unknown)[:60]!r}. The fields are: {', '.join(_FIELDS)}."
            )
        for name in ("log", "explain"):
            if type(body.get(name, True)) is not bool:
                raise SchemaError(f"The field `{name}` must be true or false.")
        rows, missing = await self._rows(served, body, large)
        served, rows = self._routed(request, served, rows, request_id)
        explain = self.explaining.explain if body.get("explain", False) else None
        logged, routed = body.get("log", True), _is_routed(request)
        found, explained = await self._predict(served, rows, request_id, routed=routed, logged=logged, explain=explain)
        return await in_thread_if(large, _predictions, served, found, request_id, missing, explained)

    async def _rows(self, served: Served, body: dict[str, Any], large: bool) -> tuple[Rows, list[list[str]]]:
        """Return the rows of a request, and for each entity the names of the looked-up features that are null.

        :param served: the version that answers
        :param body: the body of the request
        :param large: whether the rows are read in a thread
        """
        given = {name: body[name] for name in ("rows", "entities") if name in body}
        if len(given) != 1 or not isinstance(next(iter(given.values())), list):
            raise SchemaError(
                "The request must have either a list `rows` or a list `entities`. `rows` contains objects with a field for each "
                "feature, and `entities` contains objects with the keys by which features are looked up."
            )
        if "rows" in given:
            return await in_thread_if(large, served.columns.rows, given["rows"]), []
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
        """Check that a request carries the token of the server. If the server has no token, every request is allowed.

        :raises RefusedError: the token is missing or wrong
        """
        if self._token is None:
            return
        scheme, _, token = (header(request, b"authorization") or "").partition(" ")
        if scheme.lower() != "bearer" or not secrets.compare_digest(token.strip().encode(), self._token):
            raise RefusedError(401, "Send the token of this server as `Authorization: Bearer TOKEN`.")

    def _served(self, request: Request) -> Served:
        model, version = request.path_params["model"], request.path_params.get("version")
        if model != self._spec.model:
            raise RefusedError(404, f"This server serves the model {self._spec.model!r} only.")
        if self._versions.champion is None:
            raise RefusedError(503, self._problem())
        served = self._versions.find(version)
        if served is None and self._canary is not None:
            served = self._canary.versions.find(version)
        if served is None:
            raise RefusedError(
                404, f"Version {str(version)[:60]} is not loaded. Loaded versions: {', '.join(self._numbers)}."
            )
        return served

    @property
    def _numbers(self) -> list[str]:
        """Return the numbers of the loaded versions, the champion first."""
        others = self._canary.versions.numbers if self._canary is not None else []
        return list(dict.fromkeys([*self._versions.numbers, *others]))

    def _routed(self, request: Request, served: Served, rows: Rows, request_id: str) -> tuple[Served, Rows]:
        """Return the version that answers, and the rows with its fields.

        A request that names a version is answered by this version. If the canary cannot take the rows, the champion
        answers.
        """
        request.scope[VERSION] = served.ref.version
        if self._canary is None or not _is_routed(request):
            return served, rows
        chosen = self._canary.choose(served, rows, request_id)
        if chosen is served:
            return served, rows
        try:
            rows = converted(rows, chosen.columns)
        except SchemaError:
            # Requests may omit a watched column of the champion, which can be a feature of the canary.
            return served, rows
        request.scope[VERSION] = chosen.ref.version
        return chosen, rows

    def _count(self, served: Served, seconds: float, *, failed: bool = False, routed: bool = True) -> None:
        self._metrics.count_of_version(served.ref.version, seconds, failed=failed)
        # Requests that name a version are not part of the comparison.
        if self._canary is not None and routed:
            self._canary.answered(self._versions.champion, served, 1000 * seconds, failed=failed)

    async def _predict(
        self,
        served: Served,
        rows: Rows,
        request_id: str,
        *,
        routed: bool,
        logged: bool = True,
        explain: Callable[[Served, Rows, Predictions], Awaitable[Explained]] | None = None,
    ) -> tuple[Predictions, Explained | None]:
        began = time.perf_counter()
        try:
            if rows.count > _ROWS_HERE:
                found = await asyncio.get_running_loop().run_in_executor(None, served.predict, rows)
            else:
                found = served.predict(rows)
        except Exception:
            self._count(served, time.perf_counter() - began, failed=True, routed=routed)
            # The error message of a library is logged, but not sent to the client.
            log.exception("%s could not predict the rows of a request.", served.ref)
            raise RefusedError(500, f"{served.ref} could not predict these rows.") from None
        seconds = time.perf_counter() - began
        self._count(served, seconds, routed=routed)
        self._metrics.rows.observe(rows.count)
        # A refused request is not logged, because the client may send it again.
        explained = await explain(served, rows, found) if explain is not None else None
        if self._writing is not None and rows.count and logged:
            answer = Answer(served, rows, found, request_id, time.time(), 1000 * seconds)
            by_canary = self._canary is not None and self._canary.versions.champion is served
            await self._writing.add(answer, "canary" if by_canary else None)
            if self._shadowing is not None and served is self._versions.champion:
                self._shadowing.offer(answer)
        return found, explained


def _tensors(served: Served, found: Predictions, request_id: str, body: dict[str, Any]) -> Response:
    described, buffers = protocol.answer(served, found, request_id, body)
    if not buffers:
        return json_answer(described)
    content = to_json(described, inf_nan_mode="null")
    headers = {_BINARY_HEADER: str(len(content))}
    return Response(b"".join([content, *buffers]), headers=headers, media_type="application/octet-stream")


def _is_routed(request: Request) -> bool:
    """Return whether the share of the canary decides which version answers."""
    return "version" not in request.path_params


def _predictions(
    served: Served,
    found: Predictions,
    request_id: str,
    missing: Sequence[list[str]],
    explained: Explained | None = None,
) -> Response:
    predictions: list[dict[str, Any]] = [
        {"prediction": prediction, "score": score}
        for prediction, score in zip(protocol.labels(found), found.score.tolist(), strict=True)
    ]
    if (interval := served.model.contract.interval) is not None:
        for name, end in zip(INTERVAL_COLUMNS, ends(interval, found.score), strict=True):
            for prediction, value in zip(predictions, end.tolist(), strict=True):
                prediction[name] = value
    for prediction, names in zip(predictions, missing, strict=False):
        prediction["missing"] = names
    body = {"id": request_id, "model": served.ref.model, "version": served.ref.version, "predictions": predictions}
    if explained is not None:
        for prediction, attributions in zip(predictions, explained.rows, strict=True):
            prediction.update(attributions)
        body["attribution_scale"] = explained.scale
    return json_answer(body)
