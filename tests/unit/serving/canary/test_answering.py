"""Requests of one entity are answered by the same model, and a worse canary is withdrawn."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.gates.failures import Requests, excessive
from airflow_mlops.serving.canary import failure_counts
from airflow_mlops.serving.canary.answering import Canary, place
from airflow_mlops.serving.canary.withdrawal import Record, worse
from airflow_mlops.serving.http.endpoint import Endpoint
from airflow_mlops.serving.http.messages import VERSION
from airflow_mlops.serving.metrics import Metrics
from airflow_mlops.serving.rows.other_columns import converted
from airflow_mlops.serving.rows.request import MANY_ROWS, InputColumns
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions.loaded import Served, Versions

CONTRACT = ModelContract(
    task="regression", label="y", dataset_name="d", dataset_id="i", watched=["price"],
    features=[FeatureColumn(name="a", kind="number")],
)  # fmt: skip
TRAINING = pa.schema([("customer", pa.int64()), ("shop", pa.string())])


def served(version: int, features: tuple[str, ...] = ("a",), kind: str = "number") -> Served:
    contract = ModelContract(
        task="regression", label="y", dataset_name="d", dataset_id="i",
        features=[FeatureColumn(name=name, kind=kind) for name in features],
    )  # fmt: skip
    columns = InputColumns(contract, TRAINING, ["customer", "shop"])
    return Served(ModelVersionRef(model="m", version=version, run_id=""), None, columns)


def canary(other: Served | None, share: float = 0.5, key: str | None = "customer") -> Canary:
    versions = Versions()
    if other is not None:
        versions.promote(other)
    return Canary("m", versions, share, key)


def rows(champion: Served, *customers: int | None):
    return champion.columns.rows([{"a": 1.0, "customer": customer} for customer in customers])


@given(st.integers(-(2**53), 2**53) | st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_keeps_the_entities_of_a_smaller_one(value, one, other):
    champion, new = served(1), served(2)
    assert 0 <= place("m", value) < 1
    if isinstance(value, int):
        assert place("m", value) == place("m", float(value))
        less, more = (canary(new, share) for share in sorted((one, other)))
        if less.choose(champion, rows(champion, value), "x") is new:
            assert more.choose(champion, rows(champion, value), "y") is new


def test_the_share_of_the_entities_is_the_share():
    champion, new = served(1), served(2)
    for share in (0.0, 0.1, 0.5, 1.0):
        chosen = canary(new, share)
        hits = sum(chosen.choose(champion, rows(champion, number), "") is new for number in range(5_000))
        # Four standard errors.
        assert hits / 5_000 == pytest.approx(share, abs=4 * (share * (1 - share) / 5_000) ** 0.5)
        by_id = canary(new, share, key=None)
        hits = sum(by_id.choose(champion, rows(champion, 1), f"id-{number}") is new for number in range(5_000))
        assert hits / 5_000 == pytest.approx(share, abs=4 * (share * (1 - share) / 5_000) ** 0.5)


def test_the_champion_answers_rows_without_a_feature_of_the_canary():
    price = pa.schema([*TRAINING, ("price", pa.decimal128(9, 2))])
    champion, new = served(1), served(2, ("a", "price"))
    champion = replace(champion, columns=InputColumns(CONTRACT, price, ["customer"]))
    versions = Versions()
    versions.promote(champion)
    spec = ServeSpec(model="m", store="file:///s")
    endpoint = Endpoint(spec, versions, Metrics(), str, None, None, canary(new, 1.0, key=None))

    def routed(**row):
        request = SimpleNamespace(path_params={}, scope={})
        routed = endpoint._routed(request, champion, champion.columns.rows([{"a": 1.0, **row}]), "id")
        # The access log names the version that answered.
        assert request.scope[VERSION] == routed[0].ref.version
        return routed

    assert routed()[0] is champion
    version, found = routed(price=12.5)
    assert version is new
    assert found.features == {"a": [1.0], "price": [12.5]}
    many = champion.columns.rows([{"a": 1.5, "price": number} for number in range(MANY_ROWS)])
    ours = converted(many, new.columns).features
    assert {name: list(values) for name, values in ours.items()} == {
        "a": [1.5] * MANY_ROWS, "price": [*map(float, range(MANY_ROWS))],
    }  # fmt: skip


def test_the_share_in_mlflow_replaces_that_of_the_settings():
    champion, new = served(1), served(2)
    chosen = canary(new, 1.0)
    chosen.versions.share = 0.0
    assert chosen.choose(champion, rows(champion, 5), "id") is champion
    chosen.versions.share = None
    assert chosen.choose(champion, rows(champion, 5), "id") is new


def test_the_champion_answers_whenever_one_model_cannot_be_chosen(caplog):
    champion, new = served(1), served(2)
    everyone = canary(new, 1.0)
    assert everyone.choose(champion, rows(champion, 5, 5), "id") is new
    for customers in ((5, 6), (None,), (5, None), ()):
        assert everyone.choose(champion, rows(champion, *customers), "id") is champion
    by_feature = canary(new, 1.0, "a")
    for values, expected in (([1.5] * MANY_ROWS, new), ([1.5] * MANY_ROWS + [2.5], champion)):
        assert by_feature.choose(champion, champion.columns.rows([{"a": value} for value in values]), "id") is expected
    assert canary(None, 1.0).choose(champion, rows(champion, 5), "id") is champion
    assert canary(served(1), 1.0).choose(champion, rows(champion, 5), "id") is champion
    assert not caplog.records
    for other, key in ((served(2, ("a", "b")), "customer"), (served(2, kind="integer"), "customer"), (new, "nothing")):
        caplog.clear()
        unfit = canary(other, 1.0, key)
        for _ in range(3):
            assert unfit.choose(champion, rows(champion, 5), "id") is champion
        assert len(caplog.records) == 1


def run(seed: int, requests: int, failing: tuple[float, float], slowness: float = 1.0) -> int | None:
    """Number of the request after which the canary is withdrawn, of a share of 20%."""
    random = np.random.default_rng(seed)
    champion, new = served(1), served(2)
    chosen = canary(new)
    for number in range(requests):
        mine = bool(random.random() < 0.2)
        milliseconds = random.lognormal(1.5, 0.5) * (slowness if mine else 1)
        failed = bool(random.random() < failing[mine])
        chosen.answered(champion, new if mine else champion, milliseconds, failed=failed)
        if chosen.withdrawn is not None:
            return number
    return None


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.3])
def test_a_canary_that_is_no_worse_stays(share):
    assert [run(seed, 3_000, (share, share)) for seed in range(20)] == [None] * 20


def test_a_canary_that_fails_or_is_slow_is_withdrawn_and_its_successor_is_not():
    assert all(number is not None and number < 1_000 for number in (run(seed, 3_000, (0, 0.2)) for seed in range(10)))
    assert all(number is not None and number < 2_500 for number in (run(seed, 3_000, (0, 0), 4) for seed in range(10)))
    champion, new = served(1), served(2)
    chosen = canary(new, 1.0)
    for _ in range(9):
        chosen.answered(champion, new, 1.0, failed=True)
    assert chosen.choose(champion, rows(champion, 5), "id") is new
    chosen.answered(champion, new, 1.0, failed=True)
    assert chosen.choose(champion, rows(champion, 5), "id") is champion
    successor = served(3)
    chosen.versions.promote(successor)
    chosen.answered(champion, successor, 1.0)
    assert chosen.choose(champion, rows(champion, 5), "id") is successor


def test_failures_are_counted_for_each_share_while_the_operator_sets_it(monkeypatch):
    monkeypatch.setattr(failure_counts, "_REPORT_SECONDS", 0.0)
    champion, new, reports = served(1), served(2), []
    chosen = Canary("m", canary(new).versions, 0.5, None, count=reports.append)
    chosen.answered(champion, new, 1.0, failed=True)
    assert reports == []
    chosen.versions.share = 0.1
    for version, failed in ((new, True), (new, False), (champion, False), (served(7), True)):
        chosen.answered(champion, version, 1.0, failed=failed)
    chosen.versions.share = 0.5
    chosen.answered(champion, champion, 1.0, failed=True)
    last = reports[-1]
    assert (last.canary, last.champion, last.server) == (2, 1, reports[0].server)
    assert {share: tuple(counts.model_dump().values()) for share, counts in last.shares.items()} == {
        0.1: (2, 1, 1, 0), 0.5: (0, 0, 1, 1),
    }  # fmt: skip
    # A comparison with another champion starts from zero, in another file.
    chosen.answered(served(3), new, 1.0)
    assert (reports[-1].champion, [*reports[-1].shares]) == (3, [0.5])
    assert reports[-1].server != last.server


def test_a_bad_hour_of_both_versions_does_not_withdraw_the_canary():
    quiet, bad = Requests(50_000, 0, 1_000_000, 0), Requests(100_000, 5_000, 100_000, 5_000)
    assert not excessive([quiet, bad])
    assert excessive([Requests(*(sum(column) for column in zip(quiet, bad, strict=True)))])
    assert excessive([quiet, bad._replace(canary_failed=18_000)])
    assert not excessive([Requests(9, 9, 9, 0)])
    assert excessive([Requests(10, 10, 0, 0)])
    assert not excessive([])


@given(st.lists(st.booleans(), max_size=60))
def test_a_record_counts_the_failures_of_its_last_answers(answers):
    record = Record(kept=20)
    for failed in answers:
        record.add(1.0, failed=failed)
    assert record.failures == sum(answers[-20:])
    assert worse(Record(), Record()) is None


def test_settings_of_a_canary_need_a_canary_and_survive_the_way_to_another_process():
    plain = {"model": "m", "store": "file:///none"}
    for fields in ({}, {"canary": "challenger"}, {"canary": "7", "canary_share": 0.0, "canary_key": "customer"}):
        spec = ServeSpec(**plain, **fields)
        for text in (spec.model_dump_json(), json.dumps(spec.for_processes())):
            assert ServeSpec.model_validate_json(text) == spec
    for fields in ({"canary_share": 0.1}, {"canary_key": "customer"}, {"canary": "7", "canary_share": 1.5}):
        with pytest.raises(ValueError, match="canary"):
            ServeSpec(**plain, **fields)
