"""Serve drift reports, backtests and Data Docs from the artifact store in Airflow's API server.

Users who may see a model may read the pages about it (:mod:`airflow_mlops.plugin.api.access`).
"""

from __future__ import annotations

import errno
import mimetypes
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path as LocalPath
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Path, Request, Response
from fastapi.staticfiles import StaticFiles

from airflow_mlops.core.errors import StoreError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.overview import models
from airflow_mlops.overview.facts import ModelDags
from airflow_mlops.plugin.api.access import AccessDep, require_assets
from airflow_mlops.plugin.api.app import app as api
from airflow_mlops.plugin.bundle import DIST
from airflow_mlops.plugin.webhooks import app as webhooks
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
_NOTHING_ALLOWED = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"

# Content security policy by served folder. Pages contain values from data, so a page must not be able to act as the
# user. Reports cannot run scripts. Data Docs of earlier versions of this package need scripts from the internet, which
# run in a sandbox without access to Airflow's cookies, and cannot send requests.
_REPORTS = f"{_NOTHING_ALLOWED}; style-src 'unsafe-inline'; img-src data:; font-src data:"
_POLICIES = {
    "reports": _REPORTS,
    "backtests": _REPORTS,
    "docs": (
        f"{_NOTHING_ALLOWED}; sandbox allow-scripts allow-popups allow-popups-to-escape-sandbox; "
        f"script-src 'unsafe-inline' {_CDN}; style-src 'unsafe-inline' 'self' {_CDN}; "
        f"img-src data: 'self'; font-src data: 'self' {_CDN}"
    ),
}

# Folders whose subfolders belong to models.
_OF_MODELS = ("reports", "backtests")
_ABSENT = "This page does not exist."

# Errors of opening a path that is not a regular file, such as a missing path, a symbolic link, a folder or a pipe.
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENAMETOOLONG)

app = FastAPI(title="MLOps artifacts", docs_url=None, redoc_url=None, openapi_url=None)


@app.middleware("http")
async def _headers(request: Request, respond: Callable[[Request], Awaitable[Response]]) -> Response:
    """Prevent proxies from caching answers and errors, because both depend on the rights of the user."""
    response = await respond(request)
    response.headers.setdefault("Cache-Control", "private, no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


app.mount("/api", api)
# Webhooks need no login, because MLflow signs what it sends.
app.mount("/webhooks", webhooks)


class _Bundle(StaticFiles):
    """The files of the React pages, which hold no data. Browsers ask each time whether a file has changed."""

    async def get_response(self, path: str, scope: Any) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


app.mount("/static", _Bundle(directory=DIST, check_dir=False))


def may_read(key: Annotated[str, Path()], rights: AccessDep) -> None:
    """Check whether the user may read a page.

    For a page about a model that the user may not see, the answer is 404. Data Docs are not about a model. For users
    who may not read assets, the answer is 403. If the store cannot be read, the answer is 502.
    """
    folder, *rest = key.split("/")
    if folder not in _OF_MODELS:
        require_assets(rights)
        return
    try:
        # If the model has no facts in the index, only users who may read all DAGs can see its pages.
        dags = (models.dags(ArtifactStore(default_store()), rest[0]) or ModelDags()) if rest else None
    except StoreError as error:
        raise HTTPException(502, str(error)) from None
    if dags is None or not rights.sees(dags):
        raise HTTPException(404, _ABSENT)


@app.get("/artifacts/{key:path}", dependencies=[Depends(may_read)])
def artifact(key: Annotated[str, Path()]) -> Response:
    """Serve one file of the artifact store.

    The status is 404 if the file does not exist, is not in a served folder, or is reached only through a symbolic link.
    The status is 502 if the store cannot be read.

    :param key: key of the file, in the folder ``reports``, ``backtests`` or ``docs``
    """
    folder, *rest = key.split("/")
    # Names with a leading dot belong to files that are still being written. The name ".." would leave the folder.
    if folder not in _POLICIES or not rest or any(not part or part.startswith(".") for part in rest) or "\0" in key:
        raise HTTPException(404, _ABSENT)
    store = ArtifactStore(default_store())
    try:
        content = _content(store, key)
    except StoreError as error:
        raise HTTPException(502, str(error)) from None
    if content is None:
        raise HTTPException(404, _ABSENT)
    return Response(
        content,
        media_type=mimetypes.guess_type(key)[0] or "application/octet-stream",
        headers={
            "Content-Security-Policy": _POLICIES[folder],
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "private, no-cache",
        },
    )


def _content(store: ArtifactStore, key: str) -> bytes | None:
    """Return the content of a file in the store; ``None`` if there is no such file."""
    root = store.local_path("")
    if root is not None:
        return _local_content(root, key)
    return store.read_bytes(key) if store.fs.isfile(store.path(key)) else None


def _local_content(root: LocalPath, key: str) -> bytes | None:
    """Return the content of a regular file below ``root``, without following symbolic links below ``root``.

    Tasks of users write the folder, and the API server can read more files than its users may see. Each part of the
    path is opened relative to the part before it. Links that are created during the check are therefore not followed
    either.

    :return: ``None`` if there is no such file
    :raises StoreError: the file cannot be read
    """
    *folders, name = key.split("/")
    try:
        opened = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for folder in folders:
                inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened)
                os.close(opened)
                opened = inner
            # A named pipe would block until somebody writes to it.
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=opened)
        finally:
            os.close(opened)
        with open(file, "rb") as content:
            return content.read() if stat.S_ISREG(os.fstat(file).st_mode) else None
    except UnicodeEncodeError:
        return None
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise StoreError(
            f"The page {key!r} cannot be read: {error.strerror}. Check the permissions of its file."
        ) from None
