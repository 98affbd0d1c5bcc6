"""Shards of a validation: the outcomes, Data Docs and datasets of a single pass, whatever is retried, killed or cleared."""

from __future__ import annotations

import re
import uuid
import weakref
from collections.abc import Callable, Sequence
from itertools import count

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import DatasetCorruptError, NotCacheableError, SpecError, ValidationError
from airflow_mlops.data.datasets import open_dataset, read_manifests
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.usage import Meter
from airflow_mlops.stages.validate import cache, one_part, shards, step
from airflow_mlops.stages.validate.checkpoint import quiet_great_expectations
from airflow_mlops.stages.validate.outcomes import read_outcomes
from airflow_mlops.stages.validate.rows import Rows
from airflow_mlops.stages.validate.spec import ValidateResult, ValidateSpec
from tests.integration.stages.test_validate_batches import one
from tests.integration.stages.test_validate_on_executors import SUITE, files, listed, without_docs, write
from tests.support.dying_store import DyingStore
from tests.support.executors import LocalExecutors
from tests.support.killing import Killed

BATCH_ROWS = 6
# Whether a row fails depends only on its own values.
SIMPLE = {"name": "s", "expectations": [one("column_values_to_be_between", column="whole", max_value=2)]}

DAG = """
from airflow.sdk import DAG, Asset
from airflow_mlops.operators import ProfileOperator, ValidateOperator

with DAG("validate_shards"):
    checked = ValidateOperator.partial(
        task_id="validate", dataset={{"name": "rows", "window": "2013-04"}}, suite={suite}, on_failure="quarantine",
        shards=2, outlets=[Asset("mlops://validate_shards/valid")],
    ).expand(shard=[0, 1])
    ProfileOperator(task_id="profile", dataset=checked.output, columns=["whole"])
"""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    quiet_great_expectations()
    monkeypatch.setattr(step, "Rows", lambda datasets: Rows(datasets, BATCH_ROWS))


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/store")


def task(
    store: ArtifactStore,
    dataset: object,
    shard: int | None = None,
    of: int | None = None,
    *,
    series: str = "first",
    succeeded: Sequence[int] = (),
    others_succeeded: bool = False,
    executors: LocalExecutors | None = None,
    meter: Meter | None = None,
    **fields: object,
) -> ValidateResult:
    """Run a shard, or a single pass. ``series`` are the tries since the shard was cleared last."""
    place = Provenance(dag_id="dag", run_id="run", task_id="validate", map_index=-1 if shard is None else shard)
    context = StepContext(store, key(shard, series), provenance=place, executors=executors, meter=meter)
    shards = {"shard": shard, "shards": of, "succeeded": list(succeeded), "others_succeeded": others_succeeded}
    asked = {"dataset": dataset, "suite": SUITE, "on_failure": "quarantine", **fields}
    return step.run(ValidateSpec.model_validate({**asked, **shards}), context)


def key(shard: int | None, series: str = "first") -> str:
    return f"results/dag/run/validate/{shard}/{series}.json"


def every(
    store: ArtifactStore, dataset: object, of: int, order: Sequence[int] = (), **fields: object
) -> ValidateResult:
    """Run all shards. The last of them has the result."""
    *others, last = order or range(of)
    for number in others:
        result = task(store, dataset, number, of, **fields)
        assert (result.dataset, result.success, result.outcomes, result.docs_url) == (None, None, [], None)
    done = task(store, dataset, last, of, **fields)
    assert done.shard == last
    return done.model_copy(update={"shard": None})


def outcome(store: ArtifactStore, run: Callable[[], ValidateResult]) -> object:
    """Return the result and the text of the Data Docs page, or the text of the error."""
    try:
        result = run()
    except ValidationError as error:
        return str(error).partition("See the Data Docs")[0]
    page = store.read_bytes(store.key_of(result.docs_url)).decode()
    return without_docs(result), re.sub(
        r"\d{8}T\d{6}\.\d+Z|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.\d]*|[0-9a-f-]{36}|collapse[-\w]*", "", page
    )


SUITES = [
    SUITE,
    SIMPLE,
    {"name": "s", "expectations": [*SUITE["expectations"][:2], one("table_row_count_to_be_between", max_value=3)]},
    {"name": "s", "expectations": [one("column_values_to_be_between", column="gaps", max_value=2, mostly=0.7)]},
    {"name": "s", "expectations": [one("column_values_to_match_json_schema", column="key", json_schema={"type": "integer"})]},
    {"name": "s", "expectations": [one("column_values_to_match_regex", column="gaps", regex="^[0-9]+$")]},
    {"name": "s", "expectations": [one("column_to_exist", column="key")]},
]  # fmt: skip


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=2), min_size=1, max_size=2),
    st.sampled_from(SUITES),
    st.sampled_from(["quarantine", "quarantine", "warn", "fail"]),
    st.integers(1, 5).flatmap(lambda of: st.permutations(range(of))),
)
@example([[13, 0], [7]], SUITE, "quarantine", [2, 0, 1])
@example([[14]], SUITES[3], "quarantine", [0, 1, 2, 3])
@example([[13]], SUITES[4], "quarantine", [1, 0])
# Only the rows of the last shard have no null, so their pandas type depends on the other shards.
@example([[17]], SUITES[5], "warn", [0, 1, 2])
@settings(max_examples=2, deadline=None)
def test_the_shards_together_equal_a_single_pass(sizes, suite, on_failure, order):
    found = []
    for of in (None, len(order)):
        store = ArtifactStore(f"memory://{uuid.uuid4().hex}")
        made = [write(store, of_window, 4 + number) for number, of_window in enumerate(sizes)]
        fields = {"suite": suite, "on_failure": on_failure}
        run = task if of is None else lambda *args, of=of, **fields: every(*args, of, order, **fields)
        found.append(outcome(store, lambda store=store, made=made, fields=fields, run=run: run(store, made, **fields)))
    assert found[0] == found[1]


def test_shards_write_the_files_of_the_datasets_and_the_last_shard_those_that_depend_on_others(store):
    made = write(store, [27])
    # Great Expectations orders its results by column.
    several = [
        one("column_values_to_be_between", column="whole", max_value=2),
        one("column_values_to_not_be_null", column="text"),
        one("column_values_to_be_in_set", column="flag", value_set=[True]),
        one("column_value_lengths_to_be_between", column="text", min_value=1),
        one("column_values_to_be_in_set", column="whole", value_set=[0, 1]),
    ]
    meters = [Meter(store) for _ in range(3)]
    for number in (0, 2):
        task(store, made, number, 3, suite={"name": "s", "expectations": several}, meter=meters[number])
    assert not store.find("datasets/rows_valid/manifests")
    assert len(files(store)) > 2
    done = task(store, made, 1, 3, suite={"name": "s", "expectations": several}, meter=meters[1])
    assert files(store) == listed(store, done)
    assert [meter.rows for meter in meters] == [12, 12, 3]
    assert len(open_dataset(store, done.quarantined).table()["failed_expectations"].unique()) > 1
    # Repeated keys are found only across all shards, which needs further files.
    found = every(store, made, 3, order=[2, 1, 0])
    assert files(store) > listed(store, found)


def test_the_last_shard_reads_the_results_of_one_shard_at_a_time(store, monkeypatch):
    """Its memory would grow with the number of shards."""
    read, kept = shards._read_results, []

    class Results(dict):
        """Results that a weak reference can refer to."""

    def watched(*arguments: object) -> Results:
        assert not [one for one in kept if one() is not None]
        kept.append(weakref.ref(found := Results(read(*arguments))))
        return found

    monkeypatch.setattr(shards, "_read_results", watched)
    every(store, write(store, [14]), 3, suite=SIMPLE, on_failure="warn")
    assert len(kept) == 6


def test_a_finished_shard_is_not_checked_again_and_its_retry_has_the_same_result(store, monkeypatch):
    made = write(store, [20])
    first = task(store, made, 0, 2)
    done = task(store, made, 1, 2)
    written = files(store)
    monkeypatch.setattr(one_part, "check", lambda *_: pytest.fail("checked again"))
    monkeypatch.setattr(one_part, "split", lambda *_, **__: pytest.fail("written again"))
    assert task(store, made, 0, 2) == first
    assert without_docs(task(store, made, 1, 2)) == without_docs(done)
    # A shard that was cleared after all shards had finished.
    again = task(store, made, 1, 2, series="cleared", succeeded=[0], others_succeeded=True)
    assert without_docs(again) == without_docs(done)
    assert task(store, made, 0, 2, series="cleared", succeeded=[1], others_succeeded=True) == first
    assert files(store) == written
    assert len(list(read_manifests(store, "rows_valid"))) == 1


def test_a_shard_that_is_killed_after_a_write_is_retried_with_the_same_datasets():
    begun = ArtifactStore(f"memory://{uuid.uuid4().hex}")
    made = write(begun, [14])
    task(begun, made, 1, 2, suite=SIMPLE)
    expected = None
    for last in count(2, 4):
        store = DyingStore(f"memory://{uuid.uuid4().hex}")
        begun.fs.cp(begun.url, store.url, recursive=True)
        store.last = last
        try:
            done = task(store, made, 0, 2, suite=SIMPLE)
        except Killed:
            assert all(len(list(read_manifests(store, f"rows_{name}"))) <= 1 for name in ("valid", "quarantine"))
            done = task(store, made, 0, 2, suite=SIMPLE)
            expected = expected or without_docs(task(store, made, series="single", suite=SIMPLE))
            assert without_docs(done) == {**expected, "shard": 0}
        else:
            break
    assert last > 12


def test_all_shards_read_the_rows_that_the_first_shard_selected(store, monkeypatch):
    write(store, [14])
    chosen = {"name": "rows", "window": "2013-04"}
    task(store, chosen, 0, 3, suite=SIMPLE)
    expected = task(store, chosen, series="single", suite=SIMPLE)
    write(store, [20])
    task(store, chosen, 2, 3, suite=SIMPLE)
    done = task(store, chosen, 1, 3, suite=SIMPLE)
    assert without_docs(done) == {**without_docs(expected), "shard": 1}
    # If all shards are cleared, they select the rows again. A shard of the old round that still runs joins them.
    check = step.shards.check

    def clear_another(*args, **options):
        monkeypatch.setattr(step.shards, "check", check)
        assert task(store, chosen, 0, 3, suite=SIMPLE, series="cleared").dataset is None
        return check(*args, **options)

    monkeypatch.setattr(step.shards, "check", clear_another)
    # The other shards had succeeded when this shard began.
    assert task(store, chosen, 1, 3, suite=SIMPLE, succeeded=[0, 2], others_succeeded=True).dataset is None
    done = task(store, chosen, 2, 3, suite=SIMPLE, series="cleared")
    assert done.dataset.rows + done.quarantined.rows == 20


def test_all_expectations_are_those_of_the_last_shard_if_a_function_returns_other_suites(store, monkeypatch):
    made = write(store, [20])
    load = step.load_suite
    for number in range(2):
        monkeypatch.setattr(step, "load_suite", lambda _, number=number: load([SIMPLE, SUITE][number]))
        done = task(store, made, number, 2, suite="shop.suites:orders", on_failure="quarantine")
    expected = task(store, made, series="single", suite=SUITE)
    assert without_docs(done) == {**without_docs(expected), "shard": 1}


def test_a_failed_shard_that_is_cleared_alone_with_other_parameters_is_refused(store):
    made = write(store, [20])
    with pytest.raises(ValidationError) as caught:
        every(store, made, 2, on_failure="fail", suite=SIMPLE)
    with pytest.raises(ValidationError) as single:
        task(store, made, on_failure="fail", suite=SIMPLE, series="single")
    assert [str(item.value).partition("See the")[0] for item in (caught,)] == [
        str(single.value).partition("See the")[0]
    ]
    # Lineage reads the outcomes of a failed task.
    assert read_outcomes(store, key(1)) == read_outcomes(store, key(None, "single")) != []
    assert read_outcomes(store, key(0)) == []
    cleared = {"series": "cleared", "succeeded": [0], "others_succeeded": True}
    with pytest.raises(ValidationError):
        task(store, made, 1, 2, on_failure="fail", suite=SIMPLE, **cleared)
    # Otherwise, all tasks would succeed, and no task would have validated the rows.
    with pytest.raises(SpecError, match="Clear all shards"):
        task(store, made, 1, 2, on_failure="fail", suite=SUITE, **cleared)


def test_deleted_files_and_results_of_a_shard_are_an_error(store):
    made = write(store, [20])
    for folder in ("datasets/rows_quarantine/files", "checkpoints/validate"):
        suite = {**SIMPLE, "name": folder.rpartition("/")[2]}
        task(store, made, 0, 2, suite=suite)
        found = [name for name in store.find(folder) if "files" in name or "/results/" in name]
        for name in found:
            store.delete(name)
        with pytest.raises(DatasetCorruptError, match="Clear all shards"):
            task(store, made, 1, 2, suite=suite)
        assert not store.find("datasets/rows_quarantine/manifests")


def test_a_few_rows_are_validated_by_the_last_shard_alone(store):
    made = write(store, [2, 4])
    done = every(store, made, 3, suite=SIMPLE)
    assert without_docs(done) == without_docs(task(store, made, series="single", suite=SIMPLE))


def test_executors_of_spark_are_not_used_by_shards(store):
    made = write(store, [14])
    executors = LocalExecutors(store.url)
    assert every(store, made, 2, suite=SIMPLE, executors=executors).dataset
    assert not executors.ran


def test_shards_need_a_dataset_and_a_dag_run(store):
    from airflow_mlops.operators import ValidateOperator

    database = {"conn_id": "shop", "table": "orders", "suite": SUITE, "shard": 0, "shards": 2}
    with pytest.raises(ValueError, match="`shards` divides the rows of a dataset"):
        ValidateSpec.model_validate(database)
    with pytest.raises(SpecError, match="has shards="):
        ValidateOperator(task_id="validate", **database)
    spec = ValidateSpec(dataset=write(store, [2]), suite=SUITE, shard=0, shards=2)
    with pytest.raises(SpecError, match="mapped tasks of a DAG run"):
        step.run(spec, StepContext(store))
    with pytest.raises(NotCacheableError, match="in shards"):
        cache.inputs(spec, StepContext(store))


def test_a_mapped_task_passes_on_one_dataset_and_sends_one_event(run_dag):
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    from airflow_mlops.settings import default_store

    store = ArtifactStore(default_store())
    made = write(store, [14])
    done = run_dag(DAG.format(suite=SIMPLE))
    assert set(done.states().values()) == {"success"}
    results = [done.xcom("validate", map_index=number) for number in range(2)]
    (result,) = [found for found in results if found["dataset"]]
    assert sum(found["usage"]["rows"] for found in results) == 14
    single = task(store, made, series=uuid.uuid4().hex, suite=SIMPLE)
    assert (result["dataset"]["id"], result["quarantined"]["id"]) == (single.dataset.id, single.quarantined.id)
    assert done.xcom("profile")["profile"]["rows"] == single.dataset.rows
    with create_session() as session:
        events = select(AssetEvent.extra).join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        (extra,) = session.scalars(events.where(AssetModel.uri == "mlops://validate_shards/valid"))
        assert extra["dataset"]["id"] == single.dataset.id
