"""Removes credentials from the URLs of files, before the URLs appear in manifests, logs and error messages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fsspec.core import OpenFile

_CREDENTIALS = re.compile(r"//[^/@\s]*@")
# The query of a signed URL contains its signature.
_QUERY = re.compile(r"(https?://[^?#\s]*)[?#]\S*")


def without_credentials(text: str) -> str:
    """Return a text, such as a URL or an error message, without the credentials in its URLs."""
    return _QUERY.sub(r"\1", _CREDENTIALS.sub("//", text))


def file_url(file: OpenFile) -> str:
    """Return the URL of a file, without credentials."""
    return without_credentials(str(file.full_name))
