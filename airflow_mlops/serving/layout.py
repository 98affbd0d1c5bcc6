"""Names of the folders, windows and columns of logged predictions."""

from __future__ import annotations

import os
import tempfile
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path

from airflow_mlops.core.windows import Window
from airflow_mlops.data.columns import Apart
from airflow_mlops.registry.ledger import folder_name

#: Columns that the log adds to the columns of batch scoring: request id, and row number in the request, from 0.
REQUEST_COLUMNS = ("request_id", "request_row")
#: Key of the facts for the manifest, in the metadata of the files.
DETAILS = b"mlops"
#: Key of the share of logged requests, in these facts.
SHARE = "share"
_SECONDS = {"hour": 3600, "day": 86400}


def online_folder(model: str, apart: Apart | None = None) -> str:
    """Return the folder of the artifact store with the logged predictions of a model.

    :param model: name of the registered model
    :param apart: ``shadow`` or ``canary`` for predictions of a shadow or canary version; ``None`` for the champion
    """
    return f"{f'online-{apart}' if apart else 'online'}/{folder_name(model)}"


def servers_folder(model: str) -> str:
    """Return the folder of the artifact store with the records of the servers of a model, see
    :mod:`airflow_mlops.serving.log.uptime`."""
    return f"online-servers/{folder_name(model)}"


def mark_key(model: str) -> str:
    """Return the key of the file with the id by which the servers of a model recognise the artifact store.

    See :mod:`airflow_mlops.serving.log.mark`.
    """
    return f"online-marks/{folder_name(model)}.json"


def spool_folder(model: str, apart: Apart | None = None) -> Path:
    """Return the default folder of the spool of a model, in the folder for temporary files."""
    kind = f"spool-{apart}" if apart else "spool"
    return Path(tempfile.gettempdir()) / f"airflow-mlops-{os.getuid()}" / kind / folder_name(model)


def window_at(moment: float, length: str) -> Window:
    """Return the window of a prediction.

    :param moment: time of the prediction in seconds since 1970
    :param length: ``hour`` or ``day``
    """
    seconds = _SECONDS[length]
    return _window(int(moment // seconds) * seconds, seconds)


@lru_cache(maxsize=16)
def _window(start: int, seconds: int) -> Window:
    return Window(
        start=datetime.fromtimestamp(start, timezone.utc), end=datetime.fromtimestamp(start + seconds, timezone.utc)
    )
