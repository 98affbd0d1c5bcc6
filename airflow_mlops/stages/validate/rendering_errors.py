"""Errors in the rendering of Data Docs. Great Expectations logs them and continues without the page."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGER = "great_expectations.render.renderer.site_builder"


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        # Great Expectations logs while it handles the exception, and does not pass it to the logger.
        if (error := sys.exc_info()[1]) is not None:
            self.errors.append(error)


@contextmanager
def rendering_errors() -> Iterator[list[BaseException]]:
    """Collect the exceptions that Great Expectations ignores in the body of the ``with`` statement. Nothing is logged."""
    logger, collector = logging.getLogger(_LOGGER), _Collector()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(collector)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    try:
        yield collector.errors
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)
        logger.propagate = propagate
