"""The lines that a step logs in another process or a pod: ``LEVEL message``."""

from __future__ import annotations

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def split_level(line: str) -> tuple[str, str]:
    """Split a line into level and message. The level of a line without one, such as a line that was printed, is INFO."""
    level, _, message = line.partition(" ")
    return (level, message) if level in _LEVELS else ("INFO", line)
