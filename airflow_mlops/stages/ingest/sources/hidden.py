"""Recognises files that are not data, such as ``_SUCCESS`` of Spark and ``__MACOSX`` in zip archives."""

from __future__ import annotations


def is_hidden(path: str) -> bool:
    """Return whether the name of a file, or of a folder in its path, begins with ``_`` or ``.``, as in Spark and Hive.

    A partition folder such as ``_year=2024`` is not hidden.
    """
    return any(part[:1] in ("_", ".") and part not in (".", "..") and "=" not in part for part in path.split("/"))
