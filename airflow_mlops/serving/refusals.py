"""The error of a request that the server refuses."""

from __future__ import annotations


class RefusedError(Exception):
    """A request that is answered with an error.

    :param status: HTTP status of the response
    :param message: error message in the response
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
