"""Parts of a validation on executors: the results and datasets of the worker, whatever is lost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import pyarrow as pa
import pytest

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import ComputeError, ValidationError
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.shards import Round
from airflow_mlops.stages.usage import Meter
from airflow_mlops.stages.validate import step
from airflow_mlops.stages.validate.batches import run_in_batches
from airflow_mlops.stages.validate.checkpoint import quiet_great_expectations
from airflow_mlops.stages.validate.rows import Rows
from airflow_mlops.stages.validate.spec import ValidateResult, ValidateSpec
from airflow_mlops.stages.validate.spread import SpreadRows
from airflow_mlops.stages.validate.suites import load_suite
from tests.integration.stages.test_validate_batches import EXPECTATIONS, one, table
from tests.support.executors import LocalExecutors

BATCH_ROWS = 6
SUITE = {
    "name": "s",
    "expectations": [
        one("column_values_to_be_between", column="whole", max_value=2),
        one("column_values_to_not_be_null", column="text", mostly=0.1),
        one("column_values_to_be_between", column="at", max_value="2024-03-05"),
        one("column_values_to_be_unique", column="key"),
        one("column_mean_to_be_between", column="number", min_value=0),
        one(
            "column_values_to_be_between",
            column="number",
            max_value=9,
            row_condition="whole > 0",
            condition_parser="pandas",
        ),
    ],
}


@pytest.fixture
def store(tmp_path, monkeypatch) -> ArtifactStore:
    quiet_great_expectations()
    monkeypatch.setattr(step, "Rows", lambda datasets: Rows(datasets, BATCH_ROWS))
    return ArtifactStore(f"file://{tmp_path}/store")


def write(store: ArtifactStore, sizes: Sequence[int], month: int = 4) -> DatasetRef:
    """Write a window with one file for each size."""
    with DatasetWriter(store, "rows") as writer:
        for seed, size in enumerate(sizes):
            # Some keys are repeated. Only those of the first batch are JSON.
            keys = ["0" if n % 5 == 0 else str(n) if n < BATCH_ROWS else f"{month}-{seed}-{n}" for n in range(size)]
            data = table(seed + month, size).append_column("key", pa.array(keys, pa.string()))
            writer.write(
                data.cast(
                    pa.schema({**dict(zip(data.schema.names, data.schema.types, strict=True)), "number": pa.int64()})
                )
            )
            writer.end_files()
        return writer.commit(window=Window.model_validate(f"2013-{month:02}"))[0].ref


def validate(
    store: ArtifactStore,
    given: object,
    executors: LocalExecutors | None = None,
    series: str = "first",
    **fields: object,
) -> ValidateResult:
    context = StepContext(
        store,
        f"results/dag/run/validate/-1/{series}.json",
        provenance=Provenance(dag_id="dag", run_id="run", task_id="validate"),
        meter=Meter(store),
        executors=executors,
    )
    found = {"dataset": given, "suite": SUITE, "on_failure": "quarantine", **fields}
    return step.run(ValidateSpec.model_validate(found), context)


def without_docs(result: ValidateResult) -> dict[str, object]:
    return result.model_dump(exclude={"docs_url"})


def files(store: ArtifactStore) -> set[str]:
    return {key for name in ("rows_valid", "rows_quarantine") for key in store.find(f"datasets/{name}/files")}


def listed(store: ArtifactStore, result: ValidateResult) -> set[str]:
    refs = (result.dataset, result.quarantined)
    return {file.path for ref in refs for file in open_dataset(store, ref).manifest.files}  # type: ignore[arg-type]


def test_every_expectation_has_the_result_of_the_worker(store, tmp_path):
    # Great Expectations returns only the first 200 unexpected values of a batch.
    data = table(1, 800)
    with DatasetWriter(store, "rows") as writer:
        for start in (0, 100, 101):
            writer.write(data.slice(start, {0: 100, 100: 1}.get(start)))
            writer.end_files()
        reference = writer.commit()[0].ref
    rows, found = Rows([open_dataset(store, reference)], 300), []
    executors = LocalExecutors(store.url)
    spread = SpreadRows(rows, StepContext(store, executors=executors))
    for place in (None, spread):
        (site := tmp_path / str(len(found))).mkdir()
        suite = load_suite({"name": "s", "expectations": EXPECTATIONS})
        results, failing = run_in_batches(suite, rows, "rows", site, place)
        found.append((results, failing))
    assert len(executors.ran) == 2 * 3
    (worker, worker_rows), (spark, spark_rows) = found
    assert (spark.success, spark.statistics) == (worker.success, worker.statistics)
    for mine, theirs in zip(spark.results, worker.results, strict=True):
        # The id of an expectation is random.
        both = [item.to_json_dict() for item in (mine, theirs)]
        for item in both:
            item["expectation_config"].pop("id", None)
        assert both[0] == both[1]
        assert str(mine.result) == str(theirs.result)
    numbers = [[rows.first(len(rows)).tolist() for rows in some] for some in (spark_rows, worker_rows)]
    assert numbers[0] == numbers[1]


def test_the_datasets_are_those_of_the_worker(store):
    made = [write(store, [14, 0, 7]), write(store, [6], 5)]
    executors = LocalExecutors(store.url, times=2)
    found = validate(store, made, executors)
    assert 0 < found.quarantined.rows < 27
    assert files(store) == listed(store, found)
    assert not store.find("checkpoints/failing_rows")
    # The id of a dataset is a hash of its files and of its manifest.
    assert without_docs(validate(store, made, series="worker")) == without_docs(found)
    assert len(executors.ran) == 3 * 5


def test_a_window_in_a_larger_dataset_and_rows_without_a_failure(store):
    rows = table(3, 24).append_column("key", pa.array(map(str, range(24))))
    days = pa.array([date(2013, 1, 1 + number // 2) for number in range(24)])
    with DatasetWriter(store, "rows") as writer:
        writer.write(rows.append_column("happened", days))
        writer.commit(window=Window.model_validate("2013-01"), time_column="happened")
    part = {"name": "rows", "window": "2013-01-03/2013-01-11"}
    suites = [SUITE, {"name": "passes", "expectations": [one("column_to_exist", column="key")]}]
    for number, suite in enumerate(suites):
        executors = LocalExecutors(store.url)
        found = validate(store, part, executors, str(number), suite=suite)
        assert executors.ran
        assert without_docs(validate(store, part, series=f"worker{number}", suite=suite)) == without_docs(found)
        assert found.dataset.rows + found.quarantined.rows == 16
    assert not found.quarantined.rows


def test_a_few_rows_are_validated_in_the_worker(store):
    executors = LocalExecutors(store.url)
    suite = {"name": "s", "expectations": SUITE["expectations"][:1]}
    assert validate(store, write(store, [2, 4]), executors, suite=suite).quarantined.rows
    assert not executors.ran


def test_expectations_that_cannot_be_computed_have_the_errors_of_the_worker(store):
    made = write(store, [14])
    suites = [
        [one("column_values_to_be_between", column="absent", max_value=1)],
        # The first batch has only JSON.
        [one("column_values_to_match_json_schema", column="key", json_schema={"type": "integer"})],
    ]
    for number, expectations in enumerate(suites):
        errors = []
        for executors in (None, LocalExecutors(store.url)):
            with pytest.raises(ValidationError) as caught:
                suite = {"name": "s", "expectations": expectations}
                validate(store, made, executors, str(number), suite=suite)
            errors.append(str(caught.value).partition("See the Data Docs")[0])
        assert errors[0] == errors[1]
        assert "could not be computed" in errors[0]


class LostExecutorError(ComputeError):
    """An executor that is lost."""


def test_a_retry_writes_only_what_is_missing(store, monkeypatch):
    made = write(store, [18])
    add, stored = Round.add, []

    def lost(self: Round, piece: object) -> object:
        if len(stored) == 3:
            raise LostExecutorError("lost")
        stored.append(self.shard)
        return add(self, piece)

    with monkeypatch.context() as patch:
        patch.setattr(Round, "add", lost)
        with pytest.raises(ComputeError):
            validate(store, made, LocalExecutors(store.url))
    assert not store.find("datasets/rows_valid/manifests")
    assert not store.find("checkpoints/failing_rows")
    executors, before = LocalExecutors(store.url), files(store)
    found = validate(store, made, executors)
    parts = max(executors.ran) + 1
    assert len(executors.ran) < 3 * parts
    assert without_docs(validate(store, made, series="worker")) == without_docs(found)
    assert listed(store, found) & before
    # A changed suite has other failing rows, so nothing of an earlier try is used.
    fewer = {"name": "s", "expectations": SUITE["expectations"][:1]}
    changed = validate(store, made, LocalExecutors(store.url), suite=fewer)
    assert without_docs(validate(store, made, series="worker", suite=fewer)) == without_docs(changed)
    assert changed.quarantined.rows < found.quarantined.rows
