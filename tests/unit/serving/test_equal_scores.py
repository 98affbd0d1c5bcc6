"""Online scores equal those of scoring in batches bit for bit, for every kind of model that the documentation lists."""

from __future__ import annotations

import asyncio
import json
import struct
from datetime import date, datetime, timezone
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.serving.http.app import create_app
from airflow_mlops.serving.rows.request import InputColumns
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions.loaded import Served
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.score.scoring import score
from airflow_mlops.stages.train.candidate import fit_candidate, load_data
from airflow_mlops.stages.train.runs import unlogged_run
from airflow_mlops.stages.train.spec import TrainSpec
from tests.support.documented_models import CASES, PAGE, TESTED_WITH_THEIR_TRAINING, Case, documented
from tests.support.training import training_set

EXAMPLES = 3
# Numbers of rows of requests. Many operators compute 4, 8 or 16 rows at once, and the last rows differently.
SIZES = (1, 2, 3, 5, 7, 8, 9, 13, 17, 31, 37, 64, 100, 127, 1, 3, 11, 33, 65, 99)
VERSION = ModelVersionRef(model="late", version=3, run_id="run")
NOW = datetime(2024, 5, 1, tzinfo=timezone.utc)

# Columns of the scored rows that are not features.
KEY, TIME, DAY = "flight", "at", "day"
DATATYPES = {"number": "FP64", "string": "BYTES"}


def test_every_documented_kind_of_model_is_tested():
    covered = {entry for case in CASES.values() for entry in case.covers}
    assert documented(PAGE.read_text()) == covered | TESTED_WITH_THEIR_TRAINING.keys()
    for file in TESTED_WITH_THEIR_TRAINING.values():
        assert "assert_online_equals_batch(" in (PAGE.parents[1] / file).read_text(), file


# Numbers at the limits of float32 and float64, and of the integers that these types represent exactly.
_EXTREME = [0.0, -0.0, 5e-324, 1e-45, 1.1754943e-38, 16_777_217.0, 3.4028235e38, 3.4028236e38, 1.7e308, -1.7e308]
_WHOLE = [2**24 + 1, 2**53 + 1, 2**60 + 2**36 + 1, -(2**63), 2**63 - 1]
NUMBERS = {
    pa.float64(): st.sampled_from([*_EXTREME, None, float("nan")])
    | st.floats(-1e4, 1e4)
    | st.floats(allow_infinity=False),
    pa.float32(): st.none() | st.floats(width=32, allow_infinity=False),
    pa.int64(): st.sampled_from([*_WHOLE, None]) | st.integers(-30, 3000) | st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.sampled_from([2**63 + 2**39 + 1, 2**64 - 1, None]) | st.integers(0, 2**64 - 1),
    pa.int8(): st.none() | st.integers(-128, 127),
    pa.bool_(): st.sampled_from([True, False, None]),
    pa.decimal128(30, 4): st.none() | st.decimals(-(10**20), 10**20, places=4),
    pa.decimal128(38, 0): st.none() | st.integers(-(10**37), 10**37).map(Decimal),
}
TEXTS = st.sampled_from(
    ["AA", "B6", "UA", "N0001", "N0007", "", None, "aa", "AA ", "\uff21", "\x00", "null", "NaN", "good a bad ."]
) | st.text(max_size=12)


@st.composite
def rows_of(draw: Any, features: list[Any]) -> pa.Table:
    """Draw rows to score. Each feature has a type, and a few values of which each row has one."""
    count = draw(st.sampled_from([1, 2, 5, 16, 37, 100]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    columns: dict[str, pa.Array] = {}
    for place, feature in enumerate(features):
        if feature.kind == "string":
            kind, pool = pa.string(), draw(st.lists(TEXTS, min_size=1, max_size=6))
        elif place < 6:
            kind = draw(st.sampled_from(list(NUMBERS)))
            pool = draw(st.lists(NUMBERS[kind], min_size=1, max_size=6))
        else:
            kind, pool = pa.float64(), random.normal(size=8).tolist()
        columns[feature.name] = pa.array([pool[index] for index in random.integers(0, len(pool), count)], kind)
    columns[KEY] = pa.array(range(count))
    columns[TIME] = pa.array([NOW] * count, pa.timestamp("us", "UTC"))
    columns[DAY] = pa.array([date(2024, 5, 1)] * count)
    return pa.table(columns)


class Server:
    """The HTTP API of a server with one loaded version, called without a socket.

    :param store: the artifact store
    :param served: the version
    """

    def __init__(self, store: ArtifactStore, served: Served) -> None:
        self._app = create_app(ServeSpec(model=VERSION.model, store=store.url, log=False))
        self._app.state.versions.promote(served)
        self._served, self._loop = served, asyncio.new_event_loop()

    def post(self, call: str, body: bytes, size: int | None = None) -> tuple[int, dict[str, Any], bytes]:
        """Send a request, and return the status, the JSON object of the answer, and the binary data after it."""
        headers = [] if size is None else [(b"inference-header-content-length", str(size).encode())]
        path = f"/v2/models/{VERSION.model}/{call}"
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": headers}
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        self._loop.run_until_complete(self._app({**scope, "query_string": b"", "root_path": ""}, receive, send))
        start, content = sent[0], b"".join(message.get("body", b"") for message in sent[1:])
        found = dict(start["headers"]).get(b"inference-header-content-length")
        length = len(content) if found is None else int(found)
        return start["status"], json.loads(content[:length]), content[length:]

    def predict(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        status, answer, _ = self.post("predict", json.dumps({"rows": rows}).encode())
        assert status == 200, answer
        return answer["predictions"]

    def infer(self, columns: dict[str, list[Any]], *, binary: bool) -> dict[str, list[Any]]:
        """Send columns as tensors, as JSON or binary, and return the outputs."""
        inputs, data = [], b""
        for feature in self._served.columns.features:
            values = columns[feature.name]
            item: dict[str, Any] = {"name": feature.name, "shape": [len(values), 1]}
            item["datatype"] = DATATYPES[feature.kind]
            if binary:
                encoded = _encoded(values, item["datatype"])
                item["parameters"] = {"binary_data_size": len(encoded)}
                data += encoded
            else:
                item["data"] = values
            inputs.append(item)
        outputs = [{"name": name, "parameters": {"binary_data": True}} for name in ("score", "probabilities")]
        head = json.dumps(
            {"inputs": inputs, **({"outputs": outputs[: 1 + self.classifies]} if binary else {})}
        ).encode()
        status, answer, rest = self.post("infer", head + data, len(head))
        assert status == 200, answer
        found = {}
        for item in answer["outputs"]:
            if binary:
                size = item["parameters"]["binary_data_size"]
                found[item["name"]], rest = np.frombuffer(rest[:size], "<f8").tolist(), rest[size:]
            else:
                found[item["name"]] = item["data"]
        return found

    @property
    def classifies(self) -> bool:
        return bool(self._served.model.contract.classes)


def _encoded(values: list[Any], datatype: str) -> bytes:
    if datatype == "FP64":
        return np.array([np.nan if value is None else value for value in values], "<f8").tobytes()
    texts = [(value or "").encode() for value in values]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _json(value: Any) -> Any:
    """Return a value of a column as a client sends it. JSON has no NaN, and one type of numbers."""
    if isinstance(value, Decimal):
        return int(value) if value.as_tuple().exponent >= 0 else float(value)
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    return None if value != value else value


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("equal_scores").as_uri())


@pytest.fixture(scope="module")
def datasets(store) -> dict[Any, Any]:
    """The training sets, which several models share."""
    return {}


@pytest.fixture(scope="module", params=CASES)
def case(request, store, datasets) -> SimpleNamespace:
    """A trained model, and its server."""
    asked: Case = CASES[request.param]
    key = (asked.rows, asked.task, asked.count, *asked.features)
    if key not in datasets:
        parts = [asked.rows(count, asked.task, seed) for seed, count in ((1, asked.count), (2, 60))]
        details = {"task": asked.task, "features": list(asked.features), "keys": [KEY]}
        datasets[key] = training_set(store, *parts, **details)
    spec = TrainSpec(dataset=datasets[key], model=VERSION.model, trainer=asked.trainer, **asked.options)
    dataset, train, test = load_data(spec, store)
    context = StepContext(store, f"results/{len(datasets)}/{request.param}.json")
    fitted = fit_candidate(spec, context, dataset, train, test, unlogged_run(context, dataset))
    model = OnnxModel(fitted.exported, fitted.contract.model_copy(update={"timestamp": TIME, "watched": [DAY]}))
    carried = pa.schema([(KEY, pa.int64()), (TIME, pa.timestamp("us", "UTC")), (DAY, pa.date32())])
    served = Served(VERSION, model, InputColumns(model.contract, carried, [KEY]))
    assert (fitted.contract.parity.precision == "float64") == request.param.startswith("double precision")
    usual = asked.rows(sum(SIZES) + 1, asked.task, 9).select(asked.features)
    return SimpleNamespace(model=model, served=served, server=Server(store, served), usual=usual)


def test_a_score_depends_on_its_row_only(case):
    """Requests of any size get the scores that their rows have in a batch, at any place."""
    whole = case.model.predict(case.usual)
    rows = json.loads(json.dumps(case.usual.to_pylist()))
    start = 0
    for size in SIZES:
        request = case.served.columns.rows(rows[start : start + size])
        found = case.served.predict(request)
        for name in ("score", "prediction", "probabilities"):
            one, other = getattr(found, name), getattr(whole, name)
            np.testing.assert_array_equal(
                one, other if other is None else other[start : start + size], err_msg=str(size)
            )
        start += size


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_online_scores_equal_those_of_scoring_in_batches(case, store, data):
    table = data.draw(rows_of(case.served.columns.features))
    with DatasetWriter(store, "rows") as writer:
        writer.write(table)
        ref = writer.commit(details={"keys": [KEY], "timestamp": TIME})[0].ref
    context = StepContext(store, "results/score.json")
    made = score(
        [open_dataset(store, ref)], case.model, VERSION, name="scored", part=None, window=None, context=context
    )
    batch = open_dataset(store, made.ref).table().to_pylist()
    probabilities = case.model.predict(table).probabilities
    columns = {name: [_json(value) for value in table[name].to_pylist()] for name in table.column_names}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    names = [name for name in ("prediction", "score", "prediction_lower", "prediction_upper") if name in batch[0]]
    expected = [{name: row[name] for name in names} for row in batch]
    finite = [{name: _finite(value) for name, value in row.items()} for row in expected]
    assert case.server.predict(rows) == finite
    for place in {0, len(rows) // 2, len(rows) - 1}:
        assert case.server.predict(rows[place : place + 1]) == finite[place : place + 1]
    scores = [np.nan if row["score"] is None else row["score"] for row in expected]
    for binary in (False, True):
        found = case.server.infer(columns, binary=binary)
        wanted = {"score": scores} | ({} if probabilities is None else {"probabilities": probabilities.ravel()})
        for name, values in wanted.items():
            sent = np.array([np.nan if value is None else value for value in found[name]])
            values = np.asarray(values) if binary else np.where(np.isfinite(values), values, np.nan)
            # The signs of zeros count, and those of NaN do not.
            assert np.array_equal(sent.view("i8")[sent == sent], values.view("i8")[values == values]), name
            assert np.array_equal(np.isnan(sent), np.isnan(values)), name


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


@pytest.mark.parametrize("case", ["linear_model.Ridge"], indirect=True)
def test_infinite_numbers_have_the_scores_of_scoring_in_batches_where_a_request_can_have_them(case):
    """JSON has no infinite numbers. A number that is too large for double precision is refused instead of being replaced."""
    rows = [{**row, "distance": 1.0} for row in case.usual.slice(0, 2).to_pylist()]
    for number in ("1e999", "-1e999"):
        body = json.dumps({"rows": rows}).replace('"distance": 1.0', f'"distance": {number}', 1).encode()
        status, answer, _ = case.server.post("predict", body)
        assert (status, "'distance'" in answer["error"]) == (422, True), answer
    for number in (float("inf"), float("-inf")):
        columns = {name: [row[name] for row in rows] for name in rows[0]} | {"distance": [1.0, number]}
        batch = case.model.predict(case.usual.slice(0, 2).set_column(0, "distance", pa.array([1.0, number])))
        assert np.isinf(batch.score[1])
        assert case.server.infer(columns, binary=True)["score"] == batch.score.tolist()
