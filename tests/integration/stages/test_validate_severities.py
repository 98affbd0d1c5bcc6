"""Severities of expectations: only failures of the severity `critical` fail tasks and quarantine rows, wherever rows are checked."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import SpecError, ValidationError
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.quarantine import FAILED_EXPECTATIONS
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.validate import cache, shards, step, suites
from airflow_mlops.stages.validate.checkpoint import quiet_great_expectations
from airflow_mlops.stages.validate.outcomes import read_outcomes, write_outcomes
from airflow_mlops.stages.validate.rows import Rows
from airflow_mlops.stages.validate.spec import ExpectationOutcome, ValidateResult, ValidateSpec
from tests.integration.stages.test_validate_batches import one
from tests.support.executors import LocalExecutors

ROWS = [{"id": n, "carrier": None if n in (1, 7) else "UA", "distance": 0 if n in (2, 7) else 100} for n in range(14)]
SCHEMA = pa.schema([("id", pa.int64()), ("carrier", pa.string()), ("distance", pa.int64())])
NOT_NULL = {**one("column_values_to_not_be_null", column="carrier"), "severity": "warning"}
MANY = {**one("table_row_count_to_be_between", min_value=100), "severity": "info"}
UNIQUE = {**one("column_values_to_be_unique", column="carrier"), "severity": "info"}
FAR = one("column_values_to_be_between", column="distance", min_value=1)
TITLE = "expect_column_values_to_be_between(distance)"
TOLERATED = {
    "expect_column_values_to_not_be_null(carrier)": ("warning", 2),
    "expect_table_row_count_to_be_between()": ("info", None),
    "expect_column_values_to_be_unique(carrier)": ("info", 12),
}


@pytest.fixture
def store(tmp_path, monkeypatch) -> ArtifactStore:
    quiet_great_expectations()
    return ArtifactStore(f"file://{tmp_path}/store")


def write(store: ArtifactStore, rows: Sequence[dict[str, object]], month: int = 4) -> DatasetRef:
    with DatasetWriter(store, "flights") as writer:
        writer.write(pa.Table.from_pylist(list(rows), SCHEMA))
        return writer.commit(window=Window.model_validate(f"2013-{month:02}"))[0].ref


def context_of(store: ArtifactStore, shard: int = -1, executors: LocalExecutors | None = None) -> StepContext:
    place = Provenance(dag_id="dag", run_id="run", task_id="validate", map_index=shard)
    return StepContext(store, f"results/dag/run/validate/{shard}/x.json", provenance=place, executors=executors)


def run(place: str, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, **given: object) -> ValidateResult:
    """Validate the same rows in one of the places."""

    def step_run(context: StepContext | None = None, **fields: object) -> ValidateResult:
        return step.run(ValidateSpec.model_validate({**given, **fields}), context or context_of(store))

    if place in ("table", "query"):
        file = Path(store.url.removeprefix("file://")).parent / "flights.db"
        with sqlite3.connect(file) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS flights (id INTEGER, carrier TEXT, distance INTEGER)")
            connection.execute("DELETE FROM flights")
            connection.executemany("INSERT INTO flights VALUES (:id, :carrier, :distance)", ROWS)
        monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps({"conn_type": "sqlite", "host": str(file)}))
        source = {"table": "flights"} if place == "table" else {"sql": "SELECT * FROM flights", "name": "flights"}
        return step_run(conn_id="shop", **source)
    if place != "one DataFrame":
        monkeypatch.setattr(step, "Rows", lambda datasets: Rows(datasets, 6))
    windows = [write(store, ROWS[:5]), write(store, ROWS[5:], 5)] if place == "windows" else [write(store, ROWS)]
    if place == "shards":
        step_run(context_of(store, 0), dataset=windows, shard=0, shards=2)
        return step_run(context_of(store, 1), dataset=windows, shard=1, shards=2)
    executors = LocalExecutors(store.url) if place == "executors" else None
    return step_run(context_of(store, executors=executors), dataset=windows)


@pytest.mark.parametrize("place", ["one DataFrame", "batches", "windows", "shards", "executors", "table", "query"])
def test_only_critical_failures_fail_the_task_or_quarantine_rows(place, store, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "airflow_mlops.stages")
    validate = partial(run, place, store, monkeypatch)
    result = validate(suite={"name": "s", "expectations": [NOT_NULL, MANY, UNIQUE]}, on_failure="fail")
    assert result.success
    assert {found.expectation: (found.severity, found.unexpected) for found in result.outcomes} == TOLERATED
    assert not any(found.success for found in result.outcomes)
    assert all(title in result.summary for title in TOLERATED)
    logged = {record.levelno: record.getMessage() for record in caplog.records if "Failed" in record.getMessage()}
    for title, (severity, _) in TOLERATED.items():
        assert title in logged[getattr(logging, severity.upper())]
    page = store.read_bytes(store.key_of(result.docs_url)).decode()
    assert [page.count(f">{severity}<") for severity in ("warning", "info")] == [1, 2]

    suite = {"name": "s", "expectations": [NOT_NULL, MANY, UNIQUE, FAR]}
    result = validate(suite=suite, on_failure="quarantine")
    assert not result.success
    failing = open_dataset(store, result.quarantined)
    assert {row["id"]: row[FAILED_EXPECTATIONS] for row in failing.table().to_pylist()} == {2: TITLE, 7: TITLE}
    assert failing.manifest.details["unexpected"] == {TITLE: 2}
    if place == "shards":
        # The shards have already written the files of the datasets.
        made = {
            file.path
            for ref in (result.dataset, result.quarantined)
            for file in open_dataset(store, ref).manifest.files
        }
        assert made == {
            key for name in ("flights_valid", "flights_quarantine") for key in store.find(f"datasets/{name}/files")
        }
    with pytest.raises(ValidationError, match=re.escape(f"Failed: {TITLE} in 2 rows. Failed, but not critical: ")):
        validate(suite=suite, on_failure="fail")


@pytest.mark.parametrize("place", ["batches", "table"])
def test_rows_that_all_fail_below_critical_are_valid(place, store, monkeypatch):
    every = {**one("column_values_to_be_between", column="distance", min_value=1000), "severity": "warning"}
    result = run(place, store, monkeypatch, suite={"name": "s", "expectations": [every]}, on_failure="quarantine")
    assert (result.success, result.quarantined.rows, result.outcomes[0].unexpected) == (True, 0, 14)


def test_a_shard_without_severities_is_merged(store, tmp_path, monkeypatch):
    """A shard of an older version stores the same results, but writes the files of a quarantine of all severities."""
    monkeypatch.setattr(step, "Rows", lambda datasets: Rows(datasets, 6))
    takes, taken = shards.ShardedRows.takes, []
    monkeypatch.setattr(shards.ShardedRows, "takes", lambda *given: taken.append(takes(*given)) or taken[-1])
    windows, file = [write(store, ROWS)], tmp_path / "s.json"
    for shard, suite in enumerate([{**NOT_NULL, "severity": "critical"}, NOT_NULL]):
        file.write_text(json.dumps({"name": "s", "expectations": [suite, FAR]}))
        spec = ValidateSpec(dataset=windows, suite=str(file), on_failure="quarantine", shard=shard, shards=2)
        result = step.run(spec, context_of(store, shard))
    failing = open_dataset(store, result.quarantined).table().to_pylist()
    assert {row["id"]: row[FAILED_EXPECTATIONS] for row in failing} == {2: TITLE, 7: TITLE}
    assert taken == [True, True]


def test_an_expectation_that_cannot_be_computed_fails_the_task_whatever_its_severity(store, monkeypatch):
    absent = {**one("column_values_to_not_be_null", column="absent"), "severity": "info"}
    with pytest.raises(ValidationError, match="could not be computed"):
        run("one DataFrame", store, monkeypatch, suite={"name": "s", "expectations": [absent]})


def own_suite(severity: object, default: str | None = None) -> Callable[[], object]:
    def make() -> object:
        from great_expectations import ExpectationSuite
        from great_expectations.expectations import ExpectColumnValuesToNotBeNull

        kind = ExpectColumnValuesToNotBeNull
        if default is not None:
            kind = type("ExpectOwnSeverity", (kind,), {"__annotations__": {"severity": str}, "severity": default})
        found = kind(column="carrier", **({} if severity is None else {"severity": severity}))
        return ExpectationSuite(name="s", expectations=[found])

    return make


def assigned() -> object:
    found = own_suite("info")()
    found.expectations[0].severity = "hint"
    return found


@pytest.mark.parametrize(
    ("made", "names"),
    [
        ({**NOT_NULL, "severity": "Warning"}, "one of 'critical', 'warning', 'info'"),
        ({**NOT_NULL, "severity": 1}, "one of 'critical', 'warning', 'info'"),
        (
            one("column_values_to_not_be_null", column="carrier", severity="error"),
            "one of 'critical', 'warning', 'info'",
        ),
        (own_suite("warn"), "one of 'critical', 'warning', 'info'"),
        (assigned, "one of 'critical', 'warning', 'info'"),
        (own_suite(None, default="info"), "default severity 'info'"),
    ],
    ids=["text", "number", "argument", "function", "assigned", "class"],
)
def test_unknown_severities_are_refused(made, names, tmp_path, monkeypatch):
    quiet_great_expectations()
    if callable(made):
        monkeypatch.setitem(globals(), "MADE", made)
        given = [f"{__name__}:MADE"]
    else:
        content = {"name": "s", "expectations": [made]}
        (tmp_path / "s.json").write_text(json.dumps(content))
        given = [content, str(tmp_path / "s.json")]
    for form in given:
        with pytest.raises(SpecError, match=names):
            suites.load_suite(form)


def test_severities_of_all_forms_of_a_suite_are_read(tmp_path, monkeypatch):
    quiet_great_expectations()
    from great_expectations import ExpectationSuite

    monkeypatch.setitem(globals(), "MADE", own_suite("warning"))
    loaded = suites.load_suite(f"{__name__}:MADE")
    (tmp_path / "s.json").write_text(json.dumps(loaded.to_json_dict()))
    for form in (f"{__name__}:MADE", str(tmp_path / "s.json"), loaded.to_json_dict()):
        found = suites.load_suite(form)
        assert isinstance(found, ExpectationSuite)
        assert found.expectations[0].configuration.severity == "warning"
    # Great Expectations stores a severity that is not set as null.
    found = suites.load_suite({"name": "s", "expectations": [{**NOT_NULL, "severity": None}]})
    assert found.expectations[0].configuration.severity == "critical"


def test_the_cache_and_stored_results_of_older_versions(store, caplog):
    caplog.set_level(logging.INFO, "airflow_mlops.stages")
    ref, context = write(store, ROWS), context_of(store)
    specs = [
        ValidateSpec(dataset=ref, suite={"name": "s", "expectations": [{**NOT_NULL, "severity": severity}]})
        for severity in ("warning", "info")
    ]
    assert len({fingerprint(cache.inputs(spec, context)) for spec in specs}) == 2
    result = step.run(specs[0], context)
    other = StepContext(store, "results/dag/later/validate/-1/x.json")
    caplog.clear()
    cache.replay(ValidateResult.model_validate(result.model_dump(mode="json")), specs[0], other)
    assert [found.severity for found in read_outcomes(store, other.key)] == ["warning"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]

    write_outcomes(store, "results/old.json", [ExpectationOutcome(expectation="x", success=False)])
    (key,) = [key for key in store.find("checkpoints") if "/old/" in key]
    store.write_json(key, [{"expectation": "x", "success": False, "unexpected": 1}])
    assert [found.severity for found in read_outcomes(store, "results/old.json")] == ["critical"]
