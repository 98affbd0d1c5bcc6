"""Mask credentials in text that leaves a step: errors, log messages and termination messages.

Two kinds of text are masked. The first are credentials with a recognisable form: user and password in a URL, the query
of an HTTP URL, ``password=...``. The second are secrets that this process has read from Airflow connections.

Errors of this package, messages of steps and the output of their processes pass :func:`mask`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TextIO
from urllib.parse import quote, quote_plus

MASK = "***"
# User and password before the host. A password may contain "@" and "/", but `host:8080/` is a port and a path.
_USER_INFO = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*:)?//"
    r"(?P<user>[^\s/?#:@\['\"]*:(?!\d{1,5}(?:[/?#\s]|$))[^\s'\"]*@|[^\s/?#'\"]*@)",
    re.IGNORECASE,
)
# In these URLs, the name before "@" is a container.
_WITH_CONTAINERS = ("abfs:", "abfss:", "wasb:", "wasbs:")
# The query of a signed URL contains its signature.
_HTTP_QUERY = re.compile(r"(https?://[^\s?#'\"<>]*)[?#][^\s'\"<>)]*", re.IGNORECASE)
_WORDS = "pass(?:word|wd|phrase)|pwd|secret|token|api[-_]?key|access[-_]?key|account[-_]?key|private[-_]?key"
# `sig` and `signature` are secret in the query of any URL, but not inside words such as "design" or "assigned".
_SIGNATURE = "(?<![a-z])sig(?:nature)?(?![a-z])"
_IN_QUERY = re.compile(
    rf"(?P<name>[?&][\w.%-]*(?:{_WORDS}|{_SIGNATURE}|credential)[\w.%-]*=)[^\s&'\">)]+", re.IGNORECASE
)
_IN_TEXT = re.compile(rf"(?P<name>\b(?:[a-z0-9]+[-_])*(?:{_WORDS})=)[^\s;,&'\")]+", re.IGNORECASE)
_FIELD = re.compile(rf"{_WORDS}|credential|keyfile|authorization", re.IGNORECASE)
# Shorter secrets would also mask parts of ordinary words, as in Airflow.
_SHORTEST = 5

# A template of Airflow with the secrets of a connection, or with a Variable whose name says that it is secret.
_INSIDE = r"(?:(?![}%]\}).)*"
_SECRET_TEMPLATE = re.compile(
    rf"\{{[{{%]{_INSIDE}\b(?:conn\b{_INSIDE}[.\['\"](?:password|extra|get_uri|as_json|to_dict)"
    rf"|var\b{_INSIDE}(?:{_WORDS}|credential))",
    re.IGNORECASE | re.DOTALL,
)

_known: set[str] = set()


def remember(value: str | None) -> None:
    """Mask a secret in all later text, also in its URL-encoded forms. Values of fewer than 5 characters are ignored."""
    if value and len(value) >= _SHORTEST:
        _known.update({value, quote(value, safe=""), quote(value), quote_plus(value)})


def remember_fields(fields: Mapping[str, Any]) -> None:
    """Mask the values of secret fields in all later text.

    The name of a secret field contains a word such as ``secret`` or ``password``. Nested mappings are searched as well.
    """
    for name, value in fields.items():
        if isinstance(value, Mapping):
            remember_fields(value)
        elif isinstance(value, str) and _FIELD.search(name):
            remember(value)


def mask(text: str) -> str:
    """Return ``text`` without credentials."""
    # Longer secrets first: one secret may be a part of another.
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = mask_urls(text)
    if "=" in text:
        text = _IN_TEXT.sub(rf"\g<name>{MASK}", _IN_QUERY.sub(rf"\g<name>{MASK}", text))
    return text


def mask_urls(text: str) -> str:
    """Return ``text`` without users and passwords in URLs, and without the queries of HTTP URLs."""
    if "@" in text:
        text = _USER_INFO.sub(_without_user, text)
    return _HTTP_QUERY.sub(r"\1", text)


def url_credentials(text: str) -> Iterator[str]:
    """Yield the credentials in the URLs of a text: passwords, tokens in place of a user, secret values in queries."""
    for found in _USER_INFO.finditer(text) if "@" in text else ():
        user, _, password = found["user"][:-1].partition(":")
        if password:
            yield password
        elif (found["scheme"] or "").lower() in ("http:", "https:"):
            yield user
    for found in _IN_QUERY.finditer(text):
        yield found[0].removeprefix(found["name"])


def credential_paths(value: Any, path: str = "") -> Iterator[str]:
    """Yield the paths, such as ``files[0]``, at which a JSON value contains URLs with credentials.

    :param value: the JSON value
    :param path: path of ``value`` itself
    """
    if isinstance(value, str):
        if next(url_credentials(value), None) is not None:
            yield path
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from credential_paths(item, f"{path}.{name}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from credential_paths(item, f"{path}[{position}]")


def has_secret_template(value: Any) -> bool:
    """Return whether a JSON value contains a template of a connection's password or extra, or of a secret Variable.

    As in Airflow, a Variable is secret if its name contains a word such as ``password`` or ``token``.
    """
    if isinstance(value, str):
        return _SECRET_TEMPLATE.search(value) is not None
    if isinstance(value, Mapping):
        return any(has_secret_template(item) for item in value.values())
    return isinstance(value, (list, tuple)) and any(has_secret_template(item) for item in value)


def _without_user(found: re.Match[str]) -> str:
    scheme, user = found["scheme"] or "", found["user"]
    return found[0] if scheme.lower() in _WITH_CONTAINERS and ":" not in user else f"{scheme}//"


def mask_chain(error: BaseException) -> None:
    """Mask the messages of an exception and of all its causes, which Airflow shows together.

    A cause whose message cannot be changed is removed.
    """
    found = list(_chain(error))
    for item in found:
        if not _is_masked(item):
            item.args = tuple(mask(part) if isinstance(part, str) else part for part in item.args)
    for item in found:
        if item.__cause__ is not None and not _is_masked(item.__cause__):
            item.__cause__ = None
        if item.__context__ is not None and not _is_masked(item.__context__):
            item.__context__ = None


def _is_masked(error: BaseException) -> bool:
    return mask(str(error)) == str(error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    left = [error]
    while left:
        item = left.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        left.extend(other for other in (item.__cause__, item.__context__) if other is not None)


class MaskedStream:
    """A text stream that masks credentials in the written text. All other attributes are those of ``stream``.

    :param stream: the stream to which the masked text is written
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(mask(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
