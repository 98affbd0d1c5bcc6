"""What the server sends to the process that writes its log, and what arrives there."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import math
import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.data.predictions.privacy import KEEP_ALL
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.serving.http import access as access_module
from airflow_mlops.serving.http.access import AccessLog
from airflow_mlops.serving.http.messages import ID, VERSION
from airflow_mlops.serving.layout import window_at
from airflow_mlops.serving.log.merge import merge
from airflow_mlops.serving.log.spool import Answer, _logged
from airflow_mlops.serving.metrics import Metrics
from airflow_mlops.serving.processes.write import answers, message, packed
from airflow_mlops.serving.rows.request import MANY_ROWS, InputColumns
from airflow_mlops.serving.sending import answers as writing_module
from airflow_mlops.serving.sending.answers import Writing
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions.loaded import Served, Versions

NOW = 1_700_000_000.0
CONTRACT = ModelContract(
    task="multiclass",
    label="y",
    features=[FeatureColumn(name="a", kind="number"), FeatureColumn(name="city", kind="string")],
    classes=["x", "y\0", "ä"],
    timestamp="at",
    watched=["price", "tags"],
    dataset_name="d",
    dataset_id="i",
)
TRAINING = pa.schema(
    [("customer", pa.int64()), ("at", pa.timestamp("us", "UTC")), ("price", pa.decimal128(9, 2)), ("tags", pa.list_(pa.string()))]
)  # fmt: skip
COLUMNS = InputColumns(CONTRACT, TRAINING, ["customer"])


def served(version: int = 1) -> Served:
    model = SimpleNamespace(engine="none", contract=CONTRACT)
    return Served(ModelVersionRef(model="m", version=version, run_id="r"), model, COLUMNS)


def answer(by: Served, request_id: str = "one", rows=({"a": 1, "city": "UA"},), labels=None, scores=None) -> Answer:
    labels = labels or ["x"] * len(rows)
    found = Predictions(np.array(labels, object), np.array(scores or [0.25] * len(rows)), None)
    return Answer(by, COLUMNS.rows(rows), found, request_id, NOW, 1.5)


def sent(by: list[Served], *found: tuple[Answer, str | None]) -> bytes:
    numbers = {id(each): number for number, each in enumerate(by)}
    return message(
        by, [part for item, apart in found for part in packed(item, apart).numbered(numbers[id(item.served)])]
    )


ROWS = [
    {
        "a": 0.1,
        "city": 'ä"\n',
        "customer": 5,
        "at": "2013-04-01T00:00:00.000001Z",
        "price": "1.25",
        "tags": ["q", None],
    },
    {"a": None, "city": None, "customer": None},
    {"a": -(10**300), "city": ""},
]


def test_rows_that_the_process_receives_are_logged_as_they_were_sent():
    first, second = served(1), served(2)
    rows = [{**row, **({"price": Decimal(row["price"])} if "price" in row else {})} for row in ROWS]
    several = answer(first, "several", rows, ["y\0", "ä", "x"], [math.nan, 0.1 + 0.2, math.inf])
    plain = answer(second)
    arrived = list(answers(io.BytesIO(sent([first, second], (several, None), (plain, "canary")) * 2)))
    assert [(apart, item.served.ref, item.request_id, item.at) for apart, item in arrived] == [
        (None, first.ref, "several", NOW), ("canary", second.ref, "one", NOW),
    ] * 2  # fmt: skip
    for given_, (_, item) in zip((several, plain), arrived, strict=False):
        expected, found = _logged([given_], KEEP_ALL, 1.0), _logged([item], KEEP_ALL, 1.0)
        assert found.schema.equals(expected.schema, check_metadata=True)
        assert repr(found.to_pylist()) == repr(expected.to_pylist())


NUMBER = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70) | st.booleans()
LARGE = ModelContract(
    task="regression",
    label="y",
    features=[
        FeatureColumn(name="a", kind="number"), FeatureColumn(name="b", kind="number"),
        FeatureColumn(name="n", kind="integer"), FeatureColumn(name="city", kind="string"),
    ],
    watched=["price"],
    dataset_name="d",
    dataset_id="i",
)  # fmt: skip


TEXT = st.text("aä\0\U0001f6eb", max_size=3)


@given(
    st.lists(
        st.tuples(NUMBER, NUMBER | st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(), TEXT),
        min_size=1, max_size=4,
    ),
    st.lists(st.sampled_from([1, 19, 20, 50]), min_size=1, max_size=3),
    st.booleans(),
)  # fmt: skip
def test_requests_of_few_and_many_rows_are_logged_as_they_were_sent(values, counts, has_null):
    columns = InputColumns(LARGE, TRAINING)
    by = Served(
        ModelVersionRef(model="m", version=1, run_id="r"), SimpleNamespace(engine="none", contract=LARGE), columns
    )
    several = []
    for count in counts:
        some = (values * 50)[:count]
        rows = [{"a": a, "b": b, "n": n, "city": city, "price": count / 2} for a, b, n, _, city in some]
        rows[0] |= {"price": None, **({"city": None} if has_null else {})}
        scores = np.array([score for *_, score, _ in some])
        found = Predictions(scores, scores, None)
        several.append(Answer(by, columns.rows(rows), found, f"id-{count}", NOW, 1.5))
    arrived = [item for _, item in answers(io.BytesIO(sent([by], *((item, None) for item in several))))]
    expected, found = _logged(several, KEEP_ALL, 1.0), _logged(arrived, KEEP_ALL, 1.0)
    assert found.schema.equals(expected.schema, check_metadata=True)
    # Bit for bit, with the sign of zero.
    assert repr(found.to_pylist()) == repr(expected.to_pylist())


@pytest.mark.parametrize(
    "classes", [[False, True], [0, 1], [0.5, 1.5], ["a", "ä"]], ids=["bool", "int", "float", "text"]
)
def test_classes_of_any_type_arrive_for_many_rows(classes):
    by = served()
    labels = np.array(classes * MANY_ROWS, object if isinstance(classes[0], str) else None)
    rows = COLUMNS.rows([{"a": 0.5, "city": "UA"}] * len(labels))
    given_ = Answer(by, rows, Predictions(labels, np.full(len(labels), 0.5), None), "id", NOW, 1.5)
    plain = answer(by)
    (_, item), (_, last) = answers(io.BytesIO(sent([by], (given_, None), (plain, None))))
    assert item.found.prediction.dtype == labels.dtype
    assert item.found.prediction.tolist() == labels.tolist()
    assert item.rows.features["a"].tolist() == [0.5] * len(labels)
    assert COLUMNS.logged([item.rows])["city"].to_pylist() == ["UA"] * len(labels)
    assert last.request_id == "one"


def test_a_text_that_is_not_unicode_cannot_be_sent():
    for count in (1, MANY_ROWS):
        with pytest.raises(ValueError, match="surrogate"):
            packed(answer(served(), rows=[{"a": 1, "city": "\ud800"}] * count), None)


@given(st.floats() | st.integers(-(2**63), 2**63 - 1) | st.none(), st.text(), st.floats())
def test_any_value_arrives_bit_for_bit(a, city, score):
    if isinstance(a, float) and not math.isfinite(a):
        a = None
    given_ = answer(served(), "id", [{"a": a, "city": city}], scores=[score])
    ((_, item),) = answers(io.BytesIO(sent([given_.served], (given_, None))))
    assert repr(item.rows) == repr(given_.rows)
    assert np.array_equal(item.found.score, given_.found.score, equal_nan=True)


@given(st.data())
def test_only_the_complete_answers_of_a_truncated_message_arrive(data):
    by = served()
    several = [answer(by, f"id-{number}", ROWS[1:]) for number in range(4)]
    whole = sent([by], *((item, None) for item in several))
    ends = [len(sent([by], *((item, None) for item in several[:count]))) for count in range(5)]
    cut = data.draw(st.integers(0, len(whole)))
    arrived = [item.request_id for _, item in answers(io.BytesIO(whole[:cut]))]
    assert arrived == [f"id-{number}" for number in range(4) if ends[number + 1] <= cut]


def test_a_killed_process_is_started_again_and_its_losses_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(writing_module, "_RESTART_SECONDS", 0.05)
    (tmp_path / "store").mkdir()
    store = ArtifactStore((tmp_path / "store").as_uri())
    spec = ServeSpec(model="m", store=store.url, spool=str(tmp_path / "spool"), window="hour", canary="challenger")
    metrics = Metrics()

    def dropped() -> float:
        return metrics.registry.get_sample_value("mlops_serve_log_dropped_rows_total")

    async def until(condition) -> None:
        for _ in range(1200):
            if condition():
                return
            await asyncio.sleep(0.05)
        raise AssertionError("It has not come about.")

    async def run() -> None:
        by = served()
        log = Writing(spec, metrics, Versions())
        await log.start()
        first = log._process
        if hasattr(fcntl, "F_GETPIPE_SZ"):
            # With 64 kB, requests of many rows would wait in the buffer, and then not be logged.
            assert fcntl.fcntl(log._pipe.get_extra_info("pipe"), fcntl.F_GETPIPE_SZ) == 1 << 20
        await log.add(answer(by, "kept"))
        await until(lambda: log._settled == 1)
        # The stopped process reads nothing, so it cannot write the next answer.
        first.send_signal(signal.SIGSTOP)
        await log.add(answer(by, "lost"))
        await until(lambda: log._sent == 2)
        first.kill()
        await until(lambda: log._process is None)
        assert dropped() == 1
        await log.add(answer(by, "\ud800"))
        await until(lambda: dropped() == 2)
        await log.add(answer(by, "later"))
        await log.add(answer(by, "by the canary"), "canary")
        await until(lambda: log._settled == 2)
        # The signals that stop the server do not stop the process that writes the log.
        log._process.terminate()
        await log.stop()

    asyncio.run(run())
    assert dropped() == 2
    end = window_at(NOW, "hour").end + timedelta(hours=1)
    for apart, name, expected in (
        (None, "m_predictions", {"kept", "later"}), ("canary", "m_canary_predictions", {"by the canary"}),
    ):  # fmt: skip
        assert merge(store, "m", name, end, apart=apart) == []  # the process has already merged the files
        rows = [row for batch in PredictionLog(store, "m", name).batches() for row in batch.to_pylist()]
        assert {row["request_id"] for row in rows} == expected
        assert len(rows) == len(expected)


def test_answers_for_which_there_is_no_room_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(writing_module, "_BUFFER_BYTES", 1000)
    metrics = Metrics()
    log = Writing(ServeSpec(model="m", store=tmp_path.as_uri(), spool=str(tmp_path / "spool")), metrics, Versions())

    async def run() -> None:
        for number in range(100):
            await log.add(answer(served(), f"id-{number}"))
            await asyncio.sleep(0)

    asyncio.run(run())
    lost = metrics.registry.get_sample_value("mlops_serve_log_dropped_rows_total")
    # Answers are encoded in groups of 16.
    assert 0 < log._batch.rows == 100 - lost <= 32


def test_arrow_does_not_import_pandas():
    code = (
        "import sys; from airflow_mlops.serving.light import without_pandas; without_pandas(); import pyarrow as pa;"
        "pa.array([1.5, None]); pa.array(['a']); assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_access_log_has_a_line_of_json_for_each_request():
    stream = io.BytesIO()
    log = AccessLog(stream, Metrics())

    async def run() -> None:
        scope = {"type": "http", "method": "POST", "path": '/v2/"ä\n', "client": ("10.0.0.1", 5), "headers": []}
        log.add(Request(scope), Response(b"12345", 422), "predict", 0.0125)
        read = {ID: 'n"9', VERSION: 3}
        log.add(Request({**scope, **read, "client": None}), Response(), "infer", 0.0)
        assert not stream.getvalue()
        log.flush()
        log.stop()

    asyncio.run(run())
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("@timestamp") > "2020"
    assert first == {
        "@version": "1", "message": 'POST /v2/"ä\n 422', "call": "predict", "client": "10.0.0.1", "status": 422,
        "milliseconds": 12.5, "bytes": 5,
    }  # fmt: skip
    assert (second["client"], second["call"]) == (None, "infer")
    assert (second["id"], second["version"]) == ('n"9', 3)


def test_a_reader_of_the_access_log_that_stops_reading_delays_no_answer(monkeypatch):
    monkeypatch.setattr(access_module, "_WAITING_BYTES", 500_000)
    reading, writing = os.pipe()
    metrics = Metrics()
    log = AccessLog(os.fdopen(writing, "wb", buffering=0), metrics)
    scope = {"type": "http", "method": "POST", "path": "/p" * 400, "client": None, "headers": []}
    received: list[bytes] = []

    def read() -> None:
        while part := os.read(reading, 1 << 20):
            received.append(part)

    async def run() -> None:
        for number in range(2_000):
            log.add(Request(scope), Response(b"1" * number), "predict", 0.1)
            if number % 100 == 99:
                log.flush()
        # The pipe takes 64 KB. If the call wrote to it, the loop would not end.
        thread = threading.Thread(target=read)
        thread.start()
        await asyncio.get_running_loop().run_in_executor(None, log.stop)
        log._stream.close()
        thread.join()

    asyncio.run(asyncio.wait_for(run(), 60))
    dropped = int(metrics.registry.get_sample_value("mlops_serve_access_log_dropped_lines_total"))
    numbers = [json.loads(line)["bytes"] for line in b"".join(received).splitlines()]
    assert 0 < dropped == 2_000 - len(numbers)
    assert numbers == sorted(set(numbers))
