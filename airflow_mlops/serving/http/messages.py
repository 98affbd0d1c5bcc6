"""Read the bodies of requests, and create responses."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic_core import from_json, to_json
from starlette.responses import Response

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.serving.refusals import RefusedError

if TYPE_CHECKING:
    from starlette.requests import Request

T = TypeVar("T")

# Keys of a request's scope: what the access log says about the request, apart from the path.
ID, VERSION = "mlops.id", "mlops.version"
# Key of a request's scope that exists if the whole request has arrived.
COMPLETE = "mlops.complete"
_JSON = "application/json"
_ID_LENGTH = 200
# A field with a space between its quote and its colon. Common clients do not send it.
_SPACED = re.compile(rb'"[ \t\r\n]+:')


def header(request: Request, name: bytes) -> str | None:
    """Return a header of a request; ``None`` if it is absent. This is ten times as fast as Starlette's own headers.

    :param name: name of the header, in lower case
    """
    for key, value in request.scope["headers"]:
        if key == name:
            found: str = value.decode("latin-1")
            return found
    return None


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """Read the body of a request.

    :param request: the request
    :param limit: largest size, in bytes
    :param seconds: time within which the body must have arrived
    :raises RefusedError: the body is compressed, too large or too slow, or the client closed the connection
    """
    if (encoding := header(request, b"content-encoding") or "identity").lower() != "identity":
        raise RefusedError(415, f"The body has the Content-Encoding {encoding[:60]!r}. Send it uncompressed.")
    if COMPLETE in request.scope:
        # The next parts of the function, above all the timer, would take a tenth of the time of a small request.
        return await _received(request, limit)
    length = header(request, b"content-length") or ""
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    task, late = asyncio.current_task(), False
    assert task is not None

    def end() -> None:
        nonlocal late
        late = True
        task.cancel()

    # `asyncio.wait_for` creates a task, and `asyncio.timeout` does not exist in Python 3.10.
    timer = asyncio.get_running_loop().call_later(seconds, end)
    try:
        return await _received(request, limit)
    except asyncio.CancelledError:
        if not late:
            raise
        if sys.version_info >= (3, 11):
            task.uncancel()
        raise RefusedError(408, f"The body did not arrive within {seconds:g} s.") from None
    finally:
        timer.cancel()


async def _received(request: Request, limit: int) -> bytes:
    parts, size = [], 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            # The client has closed the connection and reads no response. nginx logs the same status.
            raise RefusedError(499, "The client closed the connection before it had sent the body.")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large(limit: int) -> RefusedError:
    return RefusedError(413, f"The body is larger than {limit:,} bytes. Send fewer rows in a request.")


async def in_thread_if(large: bool, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function, in a thread if the request is large."""
    if not large:
        return function(*arguments)
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


def json_answer(value: Any, status: int = 200) -> Response:
    """Return a response whose body is ``value`` as JSON. NaN and infinite numbers, which JSON lacks, become null."""
    return Response(to_json(value, inf_nan_mode="null"), status, media_type=_JSON)


def json_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object that ``data`` contains.

    :raises RefusedError: ``data`` is not JSON
    :raises SchemaError: ``data`` is JSON but not an object, or one of its objects has a field twice
    """
    try:
        body = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise RefusedError(400, f"The body is not JSON: {error}.") from None
    if not isinstance(body, dict):
        raise SchemaError("The body is not a JSON object.")
    _refuse_repeated(data, body)
    return body


def _refuse_repeated(data: bytes, body: dict[str, Any]) -> None:
    """Refuse a body in which an object has a field twice. The parser would keep only the last of the two fields.

    In JSON, the name of each field ends with a quote and a colon. If the text contains as many such pairs as the parsed
    body has fields, no field is repeated. Otherwise, a slower parser reads the text again to find repeated fields. This
    is rare.
    """
    fields = _fields(body)
    if fields == data.count(b":") or (fields == data.count(b'":') and _SPACED.search(data) is None):
        return
    json.loads(data, object_pairs_hook=_once, parse_int=str, parse_float=str)


def _fields(body: dict[str, Any]) -> int:
    """Count the fields of the body and of the objects in the body.

    Only objects at the places where requests usually have them are counted.
    """
    count = len(body)
    for name, value in body.items():
        if type(value) is dict:
            count += len(value)
        elif type(value) is list:
            count += sum([len(item) for item in value if type(item) is dict])
            if name in ("inputs", "outputs"):
                nested = [item.get("parameters") for item in value if type(item) is dict]
                count += sum([len(item) for item in nested if type(item) is dict])
    return count


def _once(pairs: list[tuple[str, Any]]) -> None:
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise SchemaError(f"The request has the field {name[:60]!r} twice in one object. Send each field once.")
        names.add(name)


def request_id_of(request: Request, body: dict[str, Any]) -> str:
    """Return the id of a request: the field ``id``, the header ``X-Request-Id``, or a new random id.

    The access log gets the id as well.

    :raises SchemaError: the id is not text, or is too long
    """
    given = body.get("id")
    if given is None or given == "":
        given = header(request, b"x-request-id") or secrets.token_hex(16)
    if not isinstance(given, str) or len(given) > _ID_LENGTH:
        raise SchemaError(f"The id of the request must be text of at most {_ID_LENGTH} characters.")
    request.scope[ID] = given
    return given
