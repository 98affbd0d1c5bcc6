"""Text such as ``1 row`` or ``1,200 rows``, for messages."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Join a count and a singular noun, as in ``1 row`` or ``1,200 rows``."""
    return f"1 {noun}" if count == 1 else f"{count:,} {noun}s"
