"""Notice when a pickle is loaded. Loading a pickle can run code that is stored in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_active: list[list[str]] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event == "pickle.find_class" and _active:
        _active[-1].append(".".join(map(str, arguments)))


@contextmanager
def unpickled() -> Iterator[list[str]]:
    """Collect the names of all classes and functions that pickles name while the block runs."""
    if not hasattr(sys, "_unpickled_hook"):
        # A hook cannot be removed.
        sys._unpickled_hook = True  # type: ignore[attr-defined]
        sys.addaudithook(_hook)
    _active.append([])
    try:
        yield _active[-1]
    finally:
        _active.pop()
