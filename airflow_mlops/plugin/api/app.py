"""The FastAPI application of the JSON API."""

from __future__ import annotations

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
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


@app.exception_handler(MLOpsError)
def _failed(request: Request, error: MLOpsError) -> JSONResponse:
    status = 502 if isinstance(error, StoreError) else 422 if isinstance(error, SpecError) else 409
    return JSONResponse({"detail": str(error)}, status)


@app.exception_handler(RequestValidationError)
def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    """Name the invalid fields in one text. The values are left out, because JSON cannot represent all of them."""
    problems = (f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors())
    text = f"The request is invalid. {'; '.join(problems)}."
    return JSONResponse({"detail": text.encode(errors="replace").decode()}, 422)
