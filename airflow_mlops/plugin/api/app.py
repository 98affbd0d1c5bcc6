"""The FastAPI application of the JSON API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from airflow_mlops.core.errors import MLOpsError, SpecError, StoreError
from airflow_mlops.plugin.api import actions, reading
from airflow_mlops.plugin.api.access import access

app = FastAPI(
    title="MLOps",
    version="1",
    description="Models, their monitored windows and decisions, and actions on them.",
    docs_url=None,
    redoc_url=None,
    dependencies=[Depends(access)],
)
app.include_router(reading.router)
app.include_router(actions.router)


@app.middleware("http")
async def _headers(request: Request, respond: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await respond(request)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "private, no-store"
    return response


@app.exception_handler(MLOpsError)
def _failed(request: Request, error: MLOpsError) -> JSONResponse:
    status = 502 if isinstance(error, StoreError) else 422 if isinstance(error, SpecError) else 409
    return JSONResponse({"detail": str(error)}, status)
