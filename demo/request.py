"""An example of a request to the server of the champion: a flight of the last replayed month."""

from __future__ import annotations

import json
import shlex
import urllib.request
from typing import Any

from demo.settings import Settings

MODEL = "flight_delays"
_ROWS = "flight_delays_scoring"


def flight(settings: Settings, url: str) -> dict[str, Any]:
    """The features of a flight, as they were joined for scoring in batches.

    :param url: URL of the server, which knows the features of the model
    """
    from airflow_mlops.core.windows import Window
    from airflow_mlops.data.datasets import find_datasets
    from airflow_mlops.data.store import ArtifactStore

    with urllib.request.urlopen(f"{url}/v2/models/{MODEL}", timeout=10) as response:
        features = [item["name"] for item in json.loads(response.read())["inputs"]]
    month = Window.model_validate(settings.months[-1])
    rows: list[dict[str, Any]] = []
    for dataset in find_datasets(ArtifactStore(settings.artifacts), _ROWS, month):
        for batch in dataset.batches(columns=features, batch_rows=1_000):
            rows = batch.to_pylist()
            complete = [row for row in rows if None not in row.values()]
            if complete:
                return complete[0]
    return rows[0]


def answer(url: str, row: dict[str, Any]) -> str:
    """The server's answer to a request with one row."""
    data = json.dumps({"rows": [row]}).encode()
    request = urllib.request.Request(f"{url}/v2/models/{MODEL}/predict", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return str(response.read().decode())


def curl(url: str, row: dict[str, Any]) -> str:
    """The same request as a command for a shell."""
    body = shlex.quote(json.dumps({"rows": [row]}))
    return f"curl -s {url}/v2/models/{MODEL}/predict -H 'Content-Type: application/json' -d {body}"
