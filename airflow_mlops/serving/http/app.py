"""The ASGI application: the routes of the endpoint, and its additional processes.

These processes follow the champion and the canary, write the log, and score the rows with a shadow version.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import RawIOBase
from typing import BinaryIO

from starlette.applications import Starlette
from starlette.routing import Route

from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.serving.canary.answering import Canary
from airflow_mlops.serving.http.access import AccessLog
from airflow_mlops.serving.http.endpoint import Endpoint
from airflow_mlops.serving.http.routes import Answered, unknown
from airflow_mlops.serving.metrics import Metrics
from airflow_mlops.serving.rows.online_features import OnlineFeatures
from airflow_mlops.serving.sending.answers import Writing
from airflow_mlops.serving.sending.shadow import Shadowing
from airflow_mlops.serving.spec import CANARY_SHARE, ServeSpec
from airflow_mlops.serving.versions.following import Following
from airflow_mlops.serving.versions.loaded import Versions


def create_app(spec: ServeSpec, access_log: BinaryIO | RawIOBase | None = None) -> Starlette:
    """Return the application, which loads the champion when it starts.

    :param spec: settings of the server
    :param access_log: stream without a buffer to which the access log is written; by default, none is written
    :raises ConnectionNotFoundError: the connection ``hash_conn_id`` does not exist
    :raises SpecError: the connection ``hash_conn_id`` has no password, or its password is too short; or the spool
        belongs to servers of another model or artifact store
    """
    store, versions, metrics = ArtifactStore(spec.store), Versions(), Metrics()
    access = AccessLog(access_log, metrics)
    writing = Writing(spec, metrics, versions) if spec.log else None
    features = OnlineFeatures(spec.feast_repo) if spec.feast_repo else None
    following = Following(spec, store, versions, features=features)
    shadowing = Shadowing(spec, metrics) if spec.shadow else None
    canary, canary_following = None, None
    if spec.canary is not None:
        share = CANARY_SHARE if spec.canary_share is None else spec.canary_share
        others = Versions()
        canary_following = Following(spec, store, others, spec.canary, features=features)
        canary = Canary(spec.model, others, share, spec.canary_key, canary_following.withdraw, canary_following.count)
    endpoint = Endpoint(spec, versions, metrics, lambda: following.problem, writing, shadowing, canary)
    started = [item for item in (following, canary_following, shadowing) if item is not None]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        for item in started:
            item.start()
        if writing is not None:
            await writing.start()
        # Imported objects are never garbage. If the garbage collector examined them, requests would be delayed by tens
        # of milliseconds.
        gc.freeze()
        yield
        access.flush()
        loop = asyncio.get_running_loop()
        ended = [writing.stop()] if writing is not None else []
        stopped = [*started, endpoint.explaining, access]
        await asyncio.gather(*ended, *(loop.run_in_executor(None, item.stop) for item in stopped))

    app = Starlette(lifespan=lifespan)
    # The first matching route is used, so the routes of the most frequent requests come first.
    for path, call, name, method in (
        ("/predict", endpoint.predict, "predict", "POST"),
        ("/infer", endpoint.infer, "infer", "POST"),
        ("/ready", endpoint.model_ready, "model ready", "GET"),
        ("", endpoint.model, "model", "GET"),
    ):
        for middle in ("", "/versions/{version}"):
            answered = Answered(call, name, metrics, access, endpoint.authorize)
            app.router.routes.append(Route(f"/v2/models/{{model}}{middle}{path}", answered, methods=[method]))
    for path, call, name in (
        ("/v2", endpoint.server, "server"),
        ("/v2/health/live", endpoint.live, "live"),
        ("/v2/health/ready", endpoint.ready, "ready"),
        ("/metrics", endpoint.metrics, "metrics"),
    ):
        app.router.routes.append(Route(path, Answered(call, name, metrics, access, None), methods=["GET"]))
    for status in (404, 405):
        # Without this handler, the message would be in the field `detail`, where clients of the protocol do not expect
        # it.
        app.add_exception_handler(status, unknown)
    app.state.versions, app.state.following = versions, following
    return app
