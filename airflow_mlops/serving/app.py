"""The application: the endpoint, and what runs beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from airflow_mlops import __version__
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.serving.canary import Canary
from airflow_mlops.serving.endpoint import Endpoint
from airflow_mlops.serving.following import Following
from airflow_mlops.serving.log import open_spool
from airflow_mlops.serving.metrics import Metrics
from airflow_mlops.serving.online_features import OnlineFeatures
from airflow_mlops.serving.routes import answered, unknown
from airflow_mlops.serving.shadowing import Shadowing
from airflow_mlops.serving.spec import CANARY_SHARE, ServeSpec
from airflow_mlops.serving.versions import Versions


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
        others = Versions()
        canary_following = Following(spec, store, others, spec.canary, features=features)
        canary = Canary(spec.model, others, share, spec.canary_key, canary_following.withdraw)
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
            app.add_route(path + end, answered(call, name, metrics, endpoint.authorize), methods=["GET"])
        for end, call, name in (("/infer", endpoint.infer, "infer"), ("/predict", endpoint.predict, "predict")):
            app.add_route(path + end, answered(call, name, metrics, endpoint.authorize), methods=["POST"])
    for path, call, name in (
        ("/v2", endpoint.server, "server"),
        ("/v2/health/live", endpoint.live, "live"),
        ("/v2/health/ready", endpoint.ready, "ready"),
        ("/metrics", endpoint.metrics, "metrics"),
    ):
        app.add_route(path, answered(call, name, metrics, None), methods=["GET"])
    for status in (404, 405):
        # Without it, the message would be in the field `detail`, where clients of the protocol do not look.
        app.add_exception_handler(status, unknown)
    app.state.versions, app.state.following = versions, following
    return app
