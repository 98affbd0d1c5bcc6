"""The format of the lines that a step logs in another process or in a pod: ``LEVEL message``."""

from __future__ import annotations

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def split_level(line: str) -> tuple[str, str]:
    """Return the level and the message of a line. Lines without a level, such as printed lines, get the level INFO."""
    level, _, message = line.partition(" ")
    return (level, message) if level in _LEVELS else ("INFO", line)
