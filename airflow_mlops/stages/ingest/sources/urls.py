"""Remove credentials from the URLs of files, before the URLs appear in manifests, logs and error messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.core.secrets import mask_urls

if TYPE_CHECKING:
    from fsspec.core import OpenFile


def without_credentials(text: str) -> str:
    """Return a text, such as a URL or an error message, without the credentials in its URLs."""
    return mask_urls(text)


def file_url(file: OpenFile) -> str:
    """Return the URL of a file, without credentials."""
    return without_credentials(str(file.full_name))
