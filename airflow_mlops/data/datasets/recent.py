"""A cache of the small files that were read last."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock


class Recent:
    """A cache of the small files that were read last, by URL and hash.

    Steps read the same files several times, and files never change.

    :param limit: maximum size of all files together, in bytes
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._lock = Lock()

    def get(self, key: str) -> bytes | None:
        """Return the content of a file; ``None`` if it is not in the cache."""
        with self._lock:
            content = self._contents.get(key)
            if content is not None:
                self._contents.move_to_end(key)
            return content

    def keep(self, key: str, content: bytes) -> None:
        """Keep the content of a file. If the limit is exceeded, drop the least recently used contents."""
        with self._lock:
            self._bytes += len(content) - len(self._contents.pop(key, b""))
            self._contents[key] = content
            while self._bytes > self._limit:
                self._bytes -= len(self._contents.popitem(last=False)[1])
