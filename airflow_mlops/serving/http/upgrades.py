"""Answer requests with the header ``Upgrade`` as if they did not have it. RFC 9110, section 7.8, allows this.

Such a request asks for a protocol other than HTTP/1.1. Java's ``HttpClient`` asks for HTTP/2 in this way by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from httptools import HttpParserUpgrade

if TYPE_CHECKING:
    from httptools import HttpRequestParser

# Headers that belong to the request for the other protocol (RFC 9110 and RFC 7540).
_HEADERS = (b"upgrade", b"http2-settings")


class PlainParser:
    """A parser that reads a request with the header ``Upgrade`` again, without this header.

    httptools treats everything after the headers of such a request as data of the other protocol, and would skip the
    body. The callbacks of the parser are therefore called twice. They must ignore the first call, during which
    :meth:`repeats` is true.

    :param parser: the parser of httptools
    :param head: returns the headers of the current request without those that ask for another protocol
    """

    def __init__(self, parser: HttpRequestParser, head: Callable[[], bytes]) -> None:
        self._parser, self._head = parser, head
        self.get_http_version, self.get_method = parser.get_http_version, parser.get_method
        self.should_keep_alive, self.should_upgrade = parser.should_keep_alive, parser.should_upgrade

    def repeats(self) -> bool:
        """Return whether the current request is read again. A request with the method CONNECT is not."""
        return bool(self.should_upgrade()) and self.get_method() != b"CONNECT"

    def feed_data(self, data: bytes) -> None:
        """Read a part of a request, or of several requests.

        :raises HttpParserUpgrade: the request has the method CONNECT
        :raises HttpParserError: the data is not HTTP
        """
        while True:
            try:
                self._parser.feed_data(data)
            except HttpParserUpgrade as upgrade:
                if not self.repeats():
                    raise
                data = self._head() + data[upgrade.args[0] :]
            else:
                return


def without_upgrade(method: bytes, url: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the first line and the headers of a request, without those that ask for another protocol.

    :param method: method of the request
    :param url: target of the request
    :param version: version of HTTP, such as ``1.1``
    :param headers: names, in lower case, and values
    """
    lines = [b"%b %b HTTP/%b\r\n" % (method, url, version.encode())]
    for name, value in headers:
        kept = value
        if name in _HEADERS:
            continue
        if name == b"connection":
            options = (option.strip() for option in value.split(b","))
            kept = b", ".join(option for option in options if option.lower() not in _HEADERS)
            if not kept:
                continue
        lines.append(b"%b: %b\r\n" % (name, kept))
    return b"".join([*lines, b"\r\n"])
