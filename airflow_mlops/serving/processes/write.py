"""Write the log of predictions, in a separate process: ``python -m airflow_mlops.serving.processes.write``.

In the process of the server, writing the log would delay responses. This process reads the settings as JSON from the
first line of standard input, and then the answers (:mod:`airflow_mlops.serving.sending.answers`). Every second, it reports the
state of the log as one JSON object in a line of standard output. It ends when standard input is closed, after it has
written and uploaded the answers that it has received. The signals that end the server do not end this process.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import signal
import struct
import sys
import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import pyarrow as pa
from pydantic_core import from_json, to_json

from airflow_mlops.core.arrow_memory import use_malloc
from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.secrets import MaskedStream
from airflow_mlops.data.columns import Apart
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.serving.light import without_pandas
from airflow_mlops.serving.log.spool import Answer, open_spool
from airflow_mlops.serving.log.uptime import State
from airflow_mlops.serving.metrics import Metrics
from airflow_mlops.serving.rows.request import MANY_ROWS, InputColumns, Rows, joined
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions.loaded import Served

log = logging.getLogger(__name__)

# Head of a message: sizes, in bytes, of the versions and of the answers.
_MESSAGE = struct.Struct(">II")
# Head of an answer: index of its version in the message, and sizes, in bytes, of its two parts.
_ANSWER = struct.Struct(">III")
_REPORT_SECONDS = 1.0
# The scheduler gives the process a third of the weight of the server.
_NICE = 5
# Types of the numbers, for the module array and for NumPy.
_CODES = {"number": "d", "integer": "q"}


class Packed(NamedTuple):
    """An answer as bytes, without its version.

    :param head: all fields that are not in the body, as JSON
    :param body: for many rows, in this order: the features that are numbers, with 8 bytes for each value; the features
        that are texts; the score; and the predictions, unless they are texts. If the request has columns that are only
        logged, they follow as an Arrow record batch
    """

    head: bytes
    body: bytes

    def numbered(self, version: int) -> tuple[bytes, bytes, bytes]:
        """Return the parts of the answer in a message with several answers.

        :param version: index of the answer's version in the list of versions of the message
        """
        return _ANSWER.pack(version, len(self.head), len(self.body)), self.head, self.body


def packed(answer: Answer, apart: Apart | None) -> Packed:
    """Return an answer as bytes.

    :param answer: the answer
    :param apart: ``shadow`` or ``canary`` for predictions of a shadow or canary version; ``None`` for the champion
    :raises ValueError: a text cannot be encoded
    """
    rows, found = answer.rows, answer.found
    carried = rows.carried
    features = rows.features
    forms: dict[str, str | int] = {}
    parts: list[Any] = []
    # For predictions as bytes, the head contains the type of a value instead of the values.
    prediction: Any = found.prediction.dtype.str
    if rows.count >= MANY_ROWS:
        # As bytes, numbers and texts take less time than as JSON.
        forms, parts = _as_bytes(answer)
        features = {name: values for name, values in features.items() if name not in forms}
        score = None
        parts.append(found.score.astype(np.float64, copy=False).tobytes())
        if found.prediction.dtype.hasobject:
            prediction = found.prediction.tolist()
        else:
            parts.append(found.prediction.tobytes())
    else:
        score, prediction = found.score.tolist(), found.prediction.tolist()
    # Other values are sent as Python values. For a few rows, this takes a tenth of the time that Arrow data takes.
    head = to_json(
        (
            apart, answer.request_id, answer.at, answer.latency_ms, rows.count, features, list(carried),
            prediction, score, forms,
        ),
        inf_nan_mode="constants",
    )  # fmt: skip
    if carried:
        parts.append(pa.RecordBatch.from_arrays(list(carried.values()), names=list(carried)).serialize().to_pybytes())
    return Packed(head, b"".join(parts))


def _as_bytes(answer: Answer) -> tuple[dict[str, str | int], list[Any]]:
    """Return the features without nulls as bytes, in the order of the contract.

    :return: the form of each of these features, and objects with their bytes. The form of numbers, which are doubles or
        64-bit integers, is their type for NumPy. The form of texts, see :func:`joined`, is their size
    """
    forms: dict[str, str | int] = {}
    parts: list[Any] = []
    for feature in answer.served.columns.features:
        values = answer.rows.features[feature.name]
        if isinstance(values, np.ndarray):
            forms[feature.name] = "d"
            parts.append(values)
        elif feature.kind == "string":
            if (texts := joined(values)) is not None:
                forms[feature.name] = len(texts)
                parts.append(texts)
        else:
            # A null is not a number, and an integer may be too large.
            with suppress(TypeError, OverflowError):
                parts.append(array(_CODES[feature.kind], values))
                forms[feature.name] = _CODES[feature.kind]
    return forms, parts


def message(versions: Sequence[Served], numbered: Sequence[bytes]) -> bytes:
    """Return a message with answers and the versions that have answered.

    :param versions: the versions
    :param numbered: the parts of the answers, see :meth:`Packed.numbered`
    """
    head = json.dumps([served.description for served in versions]).encode()
    return b"".join((_MESSAGE.pack(len(head), sum(map(len, numbered))), head, *numbered))


def state_message(state: State) -> bytes:
    """Return a message with the state of the server."""
    head = json.dumps({**state.__dict__, "served": state.served.description}).encode()
    return _MESSAGE.pack(len(head), 0) + head


def answers(source: BinaryIO) -> Iterator[tuple[Apart | None, Answer] | State]:
    """Read the answers and states of messages until the end of the input.

    In the last message, incomplete answers are left out.
    """
    while len(sizes := source.read(_MESSAGE.size)) == _MESSAGE.size:
        head_size, body_size = _MESSAGE.unpack(sizes)
        head, body = source.read(head_size), source.read(body_size)
        if len(head) < head_size:
            return
        facts = json.loads(head)
        if isinstance(facts, dict):
            yield State(**facts | {"served": _version(facts["served"])})
            continue
        versions = [_version(text) for text in facts]
        yield from _answers(body, versions)


def _answers(body: bytes, versions: Sequence[Served]) -> Iterator[tuple[Apart | None, Answer]]:
    start = 0
    while start + _ANSWER.size <= len(body):
        version, head_size, body_size = _ANSWER.unpack_from(body, start)
        middle = start + _ANSWER.size + head_size
        end = middle + body_size
        if end > len(body):
            return
        apart, request_id, at, latency, count, features, names, prediction, score, forms = from_json(
            body[start + _ANSWER.size : middle]
        )
        served = versions[version]
        if score is None:
            for name, form in forms.items():
                if isinstance(form, str):
                    features[name] = np.frombuffer(body, form, count, middle)
                    middle += 8 * count
                else:
                    features[name] = body[middle : middle + form]
                    middle += form
            score = np.frombuffer(body, np.float64, count, middle)
            middle += 8 * count
            if isinstance(prediction, str):
                prediction = np.frombuffer(body, prediction, count, middle)
                middle += prediction.nbytes
        carried: dict[str, Any] = {}
        if names:
            schema = pa.schema([(name, served.columns.carried[name]) for name in names])
            carried = dict(zip(names, pa.ipc.read_record_batch(pa.py_buffer(body[middle:end]), schema), strict=True))
        if isinstance(prediction, list):
            prediction = np.array(prediction, object if prediction and isinstance(prediction[0], str) else None)
        found = Predictions(prediction, np.asarray(score, np.float64), None)
        yield apart, Answer(served, Rows(count, features, carried), found, request_id, at, latency)
        start = end


@dataclass(frozen=True)
class _Model:
    """The contract and the engine of a version. They replace the loaded model, which this process does not need."""

    contract: ModelContract
    engine: str


@lru_cache(maxsize=16)
def _version(description: str) -> Served:
    facts = json.loads(description)
    contract = ModelContract.model_validate_json(facts["contract"])
    carried = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(facts["carried"])))
    return Served(
        ModelVersionRef.model_validate(facts["ref"]),
        cast("Any", _Model(contract, facts["engine"])),
        InputColumns(contract, carried, facts["keys"]),
    )


def main() -> None:
    """Log answers until standard input is closed, which happens when the server ends."""
    # Otherwise the process delays requests where all cores are busy. It needs a tenth of a core for 4,000 rows a second.
    os.nice(_NICE)
    without_pandas()
    # Arrow's own allocator keeps the memory of written batches, about 20 MB.
    use_malloc()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(stream=MaskedStream(sys.stderr), level=logging.INFO, format="%(levelname)s log: %(message)s")
    source = sys.stdin.buffer
    spec = ServeSpec.model_validate_json(source.readline())
    store, metrics = ArtifactStore(spec.store), Metrics()
    kinds: list[Apart | None] = [None, "canary"] if spec.canary is not None else [None]
    spools = {apart: open_spool(spec, store, metrics, apart) for apart in kinds}
    ended = threading.Event()

    def report() -> None:
        value = metrics.registry.get_sample_value
        facts = {
            "settled": sum(spool.settled for spool in spools.values()),
            "dropped": value("mlops_serve_log_dropped_rows_total"),
            "spooled": value("mlops_serve_log_spooled_bytes"),
            "lag": value("mlops_serve_log_lag_seconds"),
            "damaged": sum(spool.damaged for spool in spools.values()),
        }
        print(json.dumps(facts), flush=True)

    def reports() -> None:
        # The server may have been killed. The answers that it has sent are still logged.
        try:
            while not ended.wait(_REPORT_SECONDS):
                report()
            report()
        except OSError:
            sys.stdout = None

    reporting = threading.Thread(target=reports, name="mlops-log-reports", daemon=True)
    reporting.start()
    for spool in spools.values():
        spool.start()
    for item in answers(source):
        if isinstance(item, State):
            spools[None].hear(item)
        else:
            spools[item[0]].add(item[1])
    for spool in spools.values():
        spool.stop()
    ended.set()
    reporting.join()


if __name__ == "__main__":
    try:
        main()
    except MLOpsError as error:
        sys.exit(f"ERROR {error}")
