"""The pages of the artifact store in Airflow's API server: drift reports and Data Docs, read-only, behind its login."""

from __future__ import annotations

import mimetypes
from typing import Annotated

from airflow.api_fastapi.core_api.security import requires_access_asset
from fastapi import Depends, FastAPI, HTTPException, Path, Response

from airflow_mlops.core.errors import StoreError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.settings import default_store

_CDN = " ".join(
    f"https://{host}"
    for host in (
        "cdn.jsdelivr.net",
        "cdnjs.cloudflare.com",
        "code.jquery.com",
        "maxcdn.bootstrapcdn.com",
        "stackpath.bootstrapcdn.com",
        "unpkg.com",
    )
)
_SHUT = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"

# Which folders of the store are shown, and what their pages may do. Pages quote values from data, so none may act for
# the user who reads them: reports run no script; the scripts of Great Expectations run in an origin of their own
# (``sandbox``), without Airflow's cookies, and can fetch nothing.
_POLICIES = {
    "reports": f"{_SHUT}; style-src 'unsafe-inline'; img-src data:; font-src data:",
    "docs": (
        f"{_SHUT}; sandbox allow-scripts allow-popups allow-popups-to-escape-sandbox; "
        f"script-src 'unsafe-inline' {_CDN}; style-src 'unsafe-inline' 'self' {_CDN}; "
        f"img-src data: 'self'; font-src data: 'self' {_CDN}"
    ),
}

app = FastAPI(title="MLOps artifacts", docs_url=None, redoc_url=None, openapi_url=None)


@app.get("/artifacts/{key:path}", dependencies=[Depends(requires_access_asset(method="GET"))])
def artifact(key: Annotated[str, Path()]) -> Response:
    """Serve one file of the artifact store.

    :param key: its key, which must lie in ``reports/`` or ``docs/``
    """
    folder, *rest = key.split("/")
    # Files whose name starts with a dot are still being written; "." and ".." leave the folder.
    if folder not in _POLICIES or not rest or any(not part or part.startswith(".") for part in rest) or "\0" in key:
        raise HTTPException(404, "There is no such page.")
    store = ArtifactStore(default_store())
    if not store.fs.isfile(store.path(key)):
        raise HTTPException(404, "There is no such page.")
    try:
        content = store.read_bytes(key)
    except StoreError as error:
        raise HTTPException(502, str(error)) from None
    return Response(
        content,
        media_type=mimetypes.guess_type(key)[0] or "application/octet-stream",
        headers={
            "Content-Security-Policy": _POLICIES[folder],
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "private, no-cache",
        },
    )
