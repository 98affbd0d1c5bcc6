"""Links to pages in the artifact store.

The plugin serves these pages, because browsers do not open ``file://`` or ``s3://``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, urlsplit

from airflow.sdk import conf

from airflow_mlops.links.base import ResultLink
from airflow_mlops.settings import default_store

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey


def page_address(url: str) -> str:
    """Return the address at which Airflow's API server serves a page of the artifact store.

    :param url: URL of the page in the artifact store. It is returned unchanged if it is an HTTP address, or if it is
        not in the store ``[mlops] artifacts``
    """
    if urlsplit(url).scheme in ("http", "https"):
        return url
    from airflow_mlops.data.store import ArtifactStore

    root = ArtifactStore(default_store()).url_of("").rstrip("/") + "/"
    if not url.startswith(root):
        return url
    base: str = conf.get("api", "base_url", fallback="") or ""
    return f"{base.rstrip('/')}/mlops/artifacts/{quote(url[len(root) :])}"


class ArtifactLink(ResultLink):
    """A link to a page in the artifact store.

    :cvar key: name of the field in the task's result that holds the URL of the page
    """

    key: ClassVar[str]

    def address(self, operator: Any, result: dict[str, Any]) -> str:
        url = result.get(self.key)
        return page_address(url) if url else ""


class DataDocsLink(ArtifactLink):
    """The link from a validation to its Great Expectations Data Docs.

    A failed validation has no result. Its link leads to the index of the dataset's Data Docs instead.
    """

    name = "Data Docs"
    key = "docs_url"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        return super().get_link(operator, ti_key=ti_key) or _index(operator)


def _index(operator: Any) -> str:
    from airflow_mlops.data.store import ArtifactStore

    given = operator.dataset
    dataset = given.get("dataset", given) if isinstance(given, dict) else {}
    if "id" not in dataset:
        return ""
    store = ArtifactStore(operator.store or default_store())
    key = f"docs/{dataset['name']}/{dataset['id'][:16]}/index.html"
    return page_address(store.url_of(key)) if store.exists(key) else ""


class ReportLink(ArtifactLink):
    """The link from a monitoring task to its drift report."""

    name = "Drift report"
    key = "report_url"
