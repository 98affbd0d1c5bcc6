"""Files that programs write beside data, such as ``_SUCCESS`` of Spark and ``__MACOSX`` in zip archives."""

from __future__ import annotations


def is_hidden(path: str) -> bool:
    """Return whether a file or one of its folders has a name that begins with ``_`` or ``.``, as in Spark and Hive.

    A folder of a partition such as ``_year=2024`` is not hidden.
    """
    return any(part[:1] in ("_", ".") and part not in (".", "..") and "=" not in part for part in path.split("/"))
