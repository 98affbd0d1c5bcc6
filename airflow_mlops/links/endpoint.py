"""The operator link from a deployment to its endpoint."""

from __future__ import annotations

from typing import Any

from airflow_mlops.links.base import ResultLink


class EndpointLink(ResultLink):
    """The link from a deployment to its endpoint: the metadata of the model, with its inputs and outputs."""

    name = "Endpoint"

    def address(self, operator: Any, result: dict[str, Any]) -> str:
        url = str((result.get("endpoint") or {}).get("url", ""))
        return url if url.startswith(("http://", "https://")) else ""
