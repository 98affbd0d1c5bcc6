"""Recognise files that are not data, such as ``_SUCCESS`` of Spark, ``__MACOSX`` in zip archives and ``Thumbs.db``."""

from __future__ import annotations

# Files that Windows writes in folders.
_WINDOWS = ("thumbs.db", "desktop.ini")


def is_hidden(path: str) -> bool:
    """Return whether a file is hidden, by the rule of Spark and Hive.

    A file is hidden if its name, or the name of a folder in its path, begins with ``_`` or ``.``. A partition folder
    such as ``_year=2024`` is not hidden. ``Thumbs.db`` and ``desktop.ini`` of Windows are hidden.
    """
    if path.lower().rpartition("/")[2] in _WINDOWS:
        return True
    return any(part[:1] in ("_", ".") and part not in (".", "..") and "=" not in part for part in path.split("/"))
