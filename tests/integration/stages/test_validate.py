"""Validation with a real Great Expectations: fail, warn, quarantine, and invalid suites."""

from __future__ import annotations

import json
import re
import sys
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.errors import IncompleteWindowError, SchemaError, SpecError, ValidationError
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, find_datasets, make_current, open_dataset
from airflow_mlops.data.quarantine import FAILED_EXPECTATIONS
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.overview.data import _windows
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.runner import run_call
from airflow_mlops.stages.validate import step
from airflow_mlops.stages.validate.cache import inputs
from airflow_mlops.stages.validate.spec import ValidateSpec
from airflow_mlops.stages.validate.step import run
from tests.support.killing import Killed, killed
from tests.support.overtaking import call_of, suspend

APRIL = Window.model_validate("2013-04")


def expectation(kind: str, **kwargs: object) -> dict[str, object]:
    return {"type": kind, "kwargs": kwargs, "meta": {}}


NOT_NULL = expectation("expect_column_values_to_not_be_null", column="carrier")
FAR = expectation("expect_column_values_to_be_between", column="distance", min_value=50)
MANY = expectation("expect_table_row_count_to_be_between", min_value=100)


def suite(*expectations: dict[str, object]) -> dict[str, object]:
    return {"name": "flights", "expectations": list(expectations), "meta": {"great_expectations_version": "1.24.1"}}


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return StepContext(store=ArtifactStore(f"file://{tmp_path}/store"))


@pytest.fixture
def flights(context: StepContext) -> DatasetRef:
    return write(context, ["UA", None, "AA", "DL"], [1400, 700, 17, None])


def write(context: StepContext, carrier: list[str | None], distance: list[int | None]) -> DatasetRef:
    with DatasetWriter(context.store, "flights") as writer:
        writer.write(pa.table({"carrier": carrier, "distance": distance}))
        return writer.commit(window=APRIL, owner="team")[0].ref


def validate(context: StepContext, dataset: DatasetRef, *expectations: dict[str, object], on_failure: str = "fail"):
    spec = {"dataset": dataset.model_dump(mode="json"), "suite": suite(*expectations), "on_failure": on_failure}
    return run(ValidateSpec.model_validate(spec), context)


def test_a_process_compiles_the_templates_of_the_data_docs_once(context, flights, monkeypatch):
    exists = expectation("expect_column_to_exist", column="carrier")
    validate(context, flights, exists)
    monkeypatch.setattr(jinja2.Environment, "compile", lambda *_, **__: pytest.fail("compiled again"))
    other = write(context, ["UA"], [1400])
    page = Path(validate(context, other, exists).docs_url.removeprefix("file://"))
    assert "Data asset: flights<" in page.read_text()


def test_a_valid_dataset_is_passed_on_and_data_docs_are_published(context, flights):
    result = validate(context, flights, expectation("expect_column_to_exist", column="carrier"))
    assert result.success
    assert result.dataset == flights
    page = Path(result.docs_url.removeprefix("file://")).read_text()
    assert "expect_column_to_exist" in page or "required" in page
    assert "Data asset: flights<" in page
    assert "1 of 1 expectations of suite 'flights'" in result.summary
    folder = Path(result.docs_url.removeprefix("file://")).parents[4]
    pages = sorted(folder.rglob("*.html"))
    assert folder / "index.html" in pages
    assert len(pages) == len([path for path in folder.rglob("*") if path.is_file()]) == 3
    for page in pages:
        text = page.read_text()
        assert "<script" not in text
        # A browser loads these addresses by itself. Links that a user follows are allowed.
        assert not re.findall(
            r"<(?:link|img|iframe|source)[^>]*=\"(?:https?:)?//[^>]*>|url\(['\"]?(?:https?:)?//", text
        )
        for target in re.findall(r'href="([^"#:]+)"', text):
            assert (page.parent / target).exists(), (page, target)


def test_a_page_that_cannot_be_rendered_is_reported_and_the_validation_is_kept(context, flights, monkeypatch, caplog):
    from airflow_mlops.stages.validate.severity_column import SeverityTable

    def fails(*_, **__):
        raise KeyError("no renderer")

    monkeypatch.setattr(SeverityTable, "_process_content_block", fails)
    result = validate(context, flights, expectation("expect_column_to_exist", column="carrier"))
    assert (result.success, len(result.outcomes)) == (True, 1)
    (warning,) = (record for record in caplog.records if "Data Docs of 'flights'" in record.message)
    assert (warning.levelname, "no renderer" in warning.message) == ("WARNING", True)
    index = Path(result.docs_url.removeprefix("file://"))
    assert index.name == "index.html"
    assert "could not be written" in index.read_text()
    assert "Expectations of the suite" in index.read_text()


def test_the_error_names_the_failed_expectation_its_rows_and_the_data_docs(context, flights):
    message = (
        r"flights 2013-04: 0 of 1 .*expect_column_values_to_not_be_null\(carrier\) in 1 row.*file://.*/docs/flights/"
    )
    with pytest.raises(ValidationError, match=message):
        validate(context, flights, NOT_NULL)


def test_with_warn_the_dataset_is_passed_on_unchanged(context, flights):
    result = validate(context, flights, NOT_NULL, on_failure="warn")
    assert not result.success
    assert result.dataset == flights
    assert [outcome.unexpected for outcome in result.outcomes] == [1]


def test_quarantine_separates_exactly_the_failing_rows_with_their_reasons(context, flights):
    result = validate(context, flights, NOT_NULL, FAR, on_failure="quarantine")
    valid = open_dataset(context.store, result.dataset)
    assert valid.manifest.name == "flights_valid"
    # Great Expectations does not apply value expectations to nulls, so the missing distance passes.
    assert valid.table().to_pydict() == {"carrier": ["UA", "DL"], "distance": [1400, None]}
    assert result.quarantined is not None
    bad = open_dataset(context.store, result.quarantined)
    assert bad.table().to_pydict() == {
        "carrier": [None, "AA"],
        "distance": [700, 17],
        FAILED_EXPECTATIONS: [
            "expect_column_values_to_not_be_null(carrier)",
            "expect_column_values_to_be_between(distance)",
        ],
    }
    assert bad.manifest.details["unexpected"] == {
        "expect_column_values_to_be_between(distance)": 1,
        "expect_column_values_to_not_be_null(carrier)": 1,
    }
    assert bad.manifest.parents == [flights.id]
    assert valid.manifest.owner == "team"
    # Monitoring reads this number: the number of rows that the dataset lacks.
    assert valid.manifest.details["quarantined"] == 2
    assert "quarantined" not in bad.manifest.details


def test_corrected_data_empties_the_quarantine(context, flights):
    validate(context, flights, NOT_NULL, on_failure="quarantine")
    corrected = write(context, ["UA", "B6"], [1400, 700])
    result = validate(context, corrected, NOT_NULL, on_failure="quarantine")
    assert result.success
    (present,) = find_datasets(context.store, "flights_quarantine", APRIL)
    assert present.manifest.rows == 0


def test_a_validation_that_is_killed_before_both_datasets_exist_changes_none(context, flights, monkeypatch):
    first = validate(context, flights, NOT_NULL, on_failure="quarantine")
    with monkeypatch.context() as patch:
        real = DatasetWriter.commit

        def commit(writer, **fields):
            return killed() if writer.name == "flights_valid" else real(writer, **fields)

        patch.setattr(DatasetWriter, "commit", commit)
        with pytest.raises(Killed):
            validate(context, flights, FAR, NOT_NULL, on_failure="quarantine")
    for name, ref in (("flights_valid", first.dataset), ("flights_quarantine", first.quarantined)):
        assert [item.manifest.id for item in find_datasets(context.store, name, APRIL)] == [ref.id]


def test_a_validation_that_is_killed_between_both_datasets_leaves_the_number_of_quarantined_rows(
    context, flights, monkeypatch
):
    validate(context, flights, NOT_NULL, on_failure="quarantine")
    with monkeypatch.context() as patch:
        made = []

        def make_one_current(store, manifest):
            killed() if made else made.append(make_current(store, manifest))

        patch.setattr("airflow_mlops.stages.validate.step.make_current", make_one_current)
        with pytest.raises(Killed):
            validate(context, flights, FAR, NOT_NULL, on_failure="quarantine")

    (valid,) = _windows(context.store, "flights_valid").windows
    (quarantined,) = _windows(context.store, "flights_quarantine").windows
    assert (valid.rows, valid.quarantined, quarantined.rows) == (3, 1, 2)
    retried = validate(context, flights, FAR, NOT_NULL, on_failure="quarantine")
    (valid,) = _windows(context.store, "flights_valid").windows
    assert (valid.id, valid.rows, valid.quarantined) == (retried.dataset.id, 2, 2)


def test_a_try_that_continues_after_a_later_validation_keeps_its_datasets(context, flights, monkeypatch):
    def call(run_id, *expectations):
        spec = {"dataset": flights.model_dump(mode="json"), "suite": suite(*expectations), "on_failure": "quarantine"}
        return call_of(context.store, "validate", spec, run_id)

    later = []
    suspend(
        monkeypatch,
        step,
        "complete",
        call("r", NOT_NULL),
        after=lambda: later.append(run_call(call("later", NOT_NULL, FAR))),
    )
    for name, field in (("flights_valid", "dataset"), ("flights_quarantine", "quarantined")):
        assert [item.manifest.id for item in find_datasets(context.store, name, APRIL)] == [later[0][field]["id"]]
    assert later[0]["quarantined"]["rows"] == 2


def test_failing_rows_within_mostly_are_not_quarantined(context, flights):
    allowed = expectation("expect_column_values_to_not_be_null", column="carrier", mostly=0.5)
    result = validate(context, flights, allowed, on_failure="quarantine")
    assert result.success
    assert result.dataset.rows == 4


def test_an_expectation_about_the_whole_table_cannot_be_quarantined(context, flights):
    with pytest.raises(ValidationError, match="expect_table_row_count_to_be_between"):
        validate(context, flights, MANY, NOT_NULL, on_failure="quarantine")


def test_a_window_without_rows_has_no_rows_to_quarantine(context):
    with DatasetWriter(context.store, "flights") as writer:
        writer.write(pa.schema({"carrier": pa.string(), "distance": pa.int64()}).empty_table())
        empty = writer.commit(window=APRIL, owner="team")[0].ref
    result = validate(context, empty, NOT_NULL, FAR, on_failure="quarantine")
    assert result.success
    assert (result.dataset.rows, result.quarantined and result.quarantined.rows) == (0, 0)


def test_quarantine_fails_if_every_row_fails(context, flights):
    with pytest.raises(ValidationError, match="0 of 2 .*very row.*not_be_null.carrier. in "):
        validate(
            context,
            flights,
            expectation("expect_column_values_to_be_in_set", column="carrier", value_set=["ZZ"]),
            expectation("expect_column_values_to_not_be_null", column="carrier"),
            on_failure="quarantine",
        )


def months(context: StepContext, name: str = "flights", **months: pa.Table) -> list[DatasetRef]:
    found = []
    for month, rows in months.items():
        with DatasetWriter(context.store, name) as writer:
            writer.write(rows)
            window = Window.model_validate(month.replace("_", "-")[1:])
            found.append(writer.commit(window=window, owner="team", time_column="day")[0].ref)
    return found


def days(month: int, *carriers: str | None) -> list[datetime]:
    return [datetime(2013, month, 1 + 20 * (place % 2), tzinfo=timezone.utc) for place in range(len(carriers))]


@pytest.fixture
def quarter(context: StepContext) -> list[DatasetRef]:
    """Three months, whose columns have several types of one kind."""
    return months(
        context,
        m2013_01=pa.table(
            {"carrier": ["UA", None], "distance": pa.array([1400, 7], pa.int32()), "day": days(1, "", "")}
        ),
        m2013_02=pa.table({"carrier": ["UA"], "distance": [700], "day": days(2, "")}),
        m2013_03=pa.table(
            {"carrier": pa.array(["DL", "AA"]), "distance": pa.array([17.5, 900.0]), "day": days(3, "", "")}
        ),
    )


@pytest.mark.parametrize("form", ["selection", "results of a mapped task"])
def test_several_windows_are_validated_as_one_table(context, quarter, form):
    given = {"name": "flights", "window": "2013-Q1"} if form == "selection" else [{"dataset": ref} for ref in quarter]
    spec = {
        "dataset": given,
        "on_failure": "warn",
        "suite": suite(FAR, expectation("expect_table_row_count_to_equal", value=5)),
    }
    result = run(ValidateSpec.model_validate(spec), context)
    assert result.dataset == quarter
    assert [outcome.unexpected for outcome in result.outcomes] == [2, None]
    assert [outcome.success for outcome in result.outcomes] == [False, True]
    assert "1 of 2" in result.summary
    # Downstream tasks accept the list of datasets.
    again = run(
        ValidateSpec.model_validate({**spec, "dataset": {"dataset": result.model_dump(mode="json")["dataset"]}}),
        context,
    )
    assert again.dataset == quarter
    assert again.docs_url.split("/validations/")[0] == result.docs_url.split("/validations/")[0]

    result = run(ValidateSpec.model_validate({**spec, "on_failure": "quarantine"}), context)
    valid = open_dataset(context.store, result.dataset)
    assert valid.manifest.window.label == "2013-Q1"
    assert valid.manifest.parents == [ref.id for ref in quarter]
    assert (valid.manifest.owner, valid.time_column) == ("team", "day")
    assert valid.table(columns=["distance"]).to_pydict() == {"distance": [1400, 700, 900]}
    bad = open_dataset(context.store, result.quarantined)
    assert bad.table(columns=["distance"]).to_pydict() == {"distance": [7, 17.5]}


def test_a_missing_window_is_an_error_or_is_recorded(context, quarter):
    def validated(**selection: object):
        spec = {"dataset": {"name": "flights", **selection}, "on_failure": "quarantine", "suite": suite(NOT_NULL)}
        return run(ValidateSpec.model_validate(spec), context)

    with pytest.raises(IncompleteWindowError, match="2013-04 is missing"):
        validated(window="2013-01..2013-04")
    found = open_dataset(context.store, validated(window="2013-01..2013-04", gaps="allow").dataset)
    assert found.rows == 4
    months(context, m2013_07=pa.table({"carrier": ["UA"], "distance": [700], "day": days(7, "")}))
    found = open_dataset(context.store, validated().dataset)
    assert found.manifest.details["gaps"] == ["2013-Q2"]


def test_a_part_of_a_dataset_is_validated_only_if_its_rows_are_written(context, quarter):
    spec = {"dataset": {"name": "flights", "window": "2013-01-15/2013-03"}, "suite": suite(FAR)}
    with pytest.raises(SpecError, match="part of dataset 'flights' 2013-01"):
        run(ValidateSpec.model_validate(spec), context)
    result = run(ValidateSpec.model_validate({**spec, "on_failure": "quarantine"}), context)
    valid = open_dataset(context.store, result.dataset)
    assert (valid.rows, result.quarantined.rows) == (1, 1)
    assert valid.window == Window.model_validate("2013-01-15/2013-03")


def test_datasets_with_different_names_or_types_are_not_validated_together(context, quarter):
    (other,) = months(context, name="planes", m2013_04=pa.table({"carrier": ["UA"], "day": days(4, "")}))
    with pytest.raises(SpecError, match="flights, planes"):
        run(ValidateSpec.model_validate({"dataset": [*quarter, other], "suite": suite(NOT_NULL)}), context)
    months(context, m2013_04=pa.table({"carrier": ["UA"], "distance": ["far"], "day": days(4, "")}))
    with pytest.raises(SchemaError, match="'distance' is"):
        run(ValidateSpec.model_validate({"dataset": {"name": "flights"}, "suite": suite(NOT_NULL)}), context)


def test_a_missing_column_is_named(context, flights):
    with pytest.raises(ValidationError, match=r"expect_column_values_to_not_be_null\(tailnum\) .*tailnum"):
        validate(
            context, flights, expectation("expect_column_values_to_not_be_null", column="tailnum"), on_failure="warn"
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{'single': 'quotes'}", "suite.json .* line 1 column 2"),
        ("[]", "suite.json .*list"),
        ('{"name": "x", "expectations": []}', "suite.json .*no expectations"),
        (
            '{"name": "x", "expectations": [{"type": "expect_the_moon", "kwargs": {}}]}',
            "suite.json .*expect_the_moon",
        ),
    ],
)
def test_an_invalid_suite_file_is_named(context, flights, tmp_path, text, message):
    file = tmp_path / "suite.json"
    file.write_text(text)
    with pytest.raises(SpecError, match=message):
        run(ValidateSpec(dataset=flights, suite=str(file)), context)


def test_a_missing_suite_file_is_named(context, flights):
    with pytest.raises(SpecError, match="/nowhere/suite.json .*No such file"):
        run(ValidateSpec(dataset=flights, suite="/nowhere/suite.json"), context)


def make_suite():
    """A suite built in Python, loaded by its import path."""
    import great_expectations as gx

    return gx.ExpectationSuite(name="built", expectations=[gx.expectations.ExpectColumnToExist(column="carrier")])


def test_suites_are_loaded_from_functions_and_from_files_of_great_expectations(context, flights, tmp_path):
    result = run(ValidateSpec(dataset=flights, suite=f"{__name__}:make_suite"), context)
    assert result.success
    file = tmp_path / "suite.json"
    file.write_text(json.dumps(make_suite().to_json_dict()))
    assert run(ValidateSpec(dataset=flights, suite=str(file)), context).success
    with pytest.raises(SpecError, match="'no_such_thing'"):
        run(ValidateSpec(dataset=flights, suite="no_such_thing"), context)


LARGE = 2**53
CHECKED: list[Any] = []


def large_bounds():
    """A suite with one expectation, which is created in this function or was created before."""
    import great_expectations as gx

    (made,) = CHECKED
    return gx.ExpectationSuite(name="large", expectations=[made() if callable(made) else made])


def between(column="number", **bounds):
    import great_expectations.expectations as gxe

    return gxe.ExpectColumnValuesToBeBetween(column=column, **bounds)


@pytest.mark.parametrize("kind", [int, np.int64, Decimal])
def test_large_integers_of_a_function_are_compared_exactly_or_refused(context, monkeypatch, kind):
    with DatasetWriter(context.store, "flights") as writer:
        writer.write(pa.table({"number": [LARGE, LARGE + 1]}))
        dataset = writer.commit(window=APRIL)[0].ref
    spec = ValidateSpec(dataset=dataset, suite=f"{__name__}:large_bounds", on_failure="warn")
    monkeypatch.setattr(sys.modules[__name__], "CHECKED", [lambda: between(max_value=kind(LARGE))])
    assert run(spec, context).outcomes[0].unexpected == 1
    for wrong in {"max_value": kind(LARGE + 1)}, {"min_value": kind(-LARGE - 1)}:
        monkeypatch.setattr(sys.modules[__name__], "CHECKED", [lambda wrong=wrong: between(**wrong)])
        with pytest.raises(SpecError, match=r"round .* from -?9007199254740993 to -?9007199254740992"):
            run(spec, context)
    # Nobody knows from which integer it was created.
    monkeypatch.setattr(sys.modules[__name__], "CHECKED", [between(max_value=kind(LARGE + 1))])
    with pytest.raises(SpecError, match="Create the expectation in the function"):
        run(spec, context)


def stored_suite():
    """A suite as a Great Expectations project returns it: stored, with ids."""
    import great_expectations as gx

    stored = gx.get_context(mode="ephemeral").suites.add(make_suite())
    assert stored.id
    assert stored.expectations[0].id
    return stored


def test_a_suite_stored_in_a_great_expectations_project_can_be_used(context, flights, tmp_path):
    import great_expectations as gx

    project = gx.get_context(mode="file", project_root_dir=tmp_path)
    stored = project.suites.add(
        gx.ExpectationSuite(
            name="In a project",
            notes="kept by GX",
            expectations=[gx.expectations.ExpectColumnValuesToNotBeNull(column="carrier", mostly=0.5, notes="some")],
        )
    )
    (file,) = (tmp_path / "gx" / "expectations").glob("*.json")
    assert json.loads(file.read_text())["id"] == stored.id
    assert run(ValidateSpec(dataset=flights, suite=str(file)), context).success
    assert run(ValidateSpec(dataset=flights, suite=f"{__name__}:stored_suite"), context).success


DAG = """
from airflow.sdk import DAG, Asset
from airflow_mlops.operators import ValidateOperator

with DAG("validate_quarantine", schedule=None):
    ValidateOperator(
        task_id="validate", dataset={dataset!r}, suite={suite!r}, on_failure="quarantine", store={store!r},
        outlets=[Asset("mlops://flights/valid")],
    )
"""


def test_the_asset_event_contains_the_valid_dataset(context, flights, run_dag):
    source = DAG.format(dataset=flights.model_dump(mode="json"), suite=suite(NOT_NULL), store=context.store.url)
    outcome = run_dag(source)
    assert outcome.states() == {"validate": "success"}
    ((uri, extra),) = outcome.asset_events()
    assert uri == "mlops://flights/valid"
    assert extra["dataset"]["name"] == "flights_valid"
    assert extra["success"] is False


def test_ids_and_decimals_are_validated_exactly(context):
    ids = [2**53 + 1, 2**53 + 2, None]
    with DatasetWriter(context.store, "flights") as writer:
        writer.write(
            pa.table(
                {
                    "id": ids,
                    "price": [Decimal("12.30"), None, Decimal("0.10")],
                    "long": [Decimal(10**19 + n) for n in range(3)],
                }
            )
        )
        dataset = writer.commit(window=APRIL)[0].ref
    result = validate(
        context,
        dataset,
        expectation("expect_column_values_to_be_unique", column="id"),
        expectation("expect_column_values_to_be_in_set", column="id", value_set=ids[:2]),
        expectation("expect_column_values_to_be_unique", column="long"),
        expectation("expect_column_values_to_be_in_set", column="price", value_set=[12.3, 0.1]),
        expectation("expect_column_mean_to_be_between", column="price", min_value=6.2, max_value=6.2),
        expectation("expect_column_stdev_to_be_between", column="price", min_value=8, max_value=9),
        on_failure="quarantine",
    )
    assert result.success
    pair = {"column_A": "id", "column_B": "id"}
    kind = "expect_column_pair_values_a_to_be_greater_than_b"
    with pytest.raises(ValidationError, match="Set ignore_row_if"):
        validate(context, dataset, expectation(kind, **pair, or_equal=True, ignore_row_if="neither"))
    pair["ignore_row_if"] = "either_value_is_missing"
    assert validate(context, dataset, expectation(kind, **pair, or_equal=True)).success
    assert result.quarantined is not None
    assert result.quarantined.rows == 0


OLD, NEW = date(1, 1, 1), date(9999, 12, 31)


def times(context: StepContext, *days: date | None) -> DatasetRef:
    """A dataset with these days as dates, and their midnights as timestamps."""
    with DatasetWriter(context.store, "times") as writer:
        dates = pa.array(days, pa.date32())
        writer.write(pa.table({"day": dates, "at": dates.cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))}))
        return writer.commit()[0].ref


@pytest.mark.parametrize("column", ["day", "at"])
@pytest.mark.parametrize(
    ("kind", "bounds", "unexpected"),
    [
        ("values", {"min_value": "2024-01-02"}, 2),
        ("values", {"min_value": "2024-01-02T00:00:00"}, 2),
        ("values", {"min_value": "2024-01-02T00:00:00Z"}, 2),
        ("values", {"min_value": "2024-01-02T02:00:00+02:00", "strict_min": True}, 3),
        ("values", {"min_value": "0001-01-01", "max_value": "9999-12-31"}, 0),
        ("values", {"min_value": "1600-01-01", "max_value": "9999-12-30"}, 2),
        ("min", {"min_value": "0001-01-01", "max_value": "0001-01-01"}, 0),
        ("max", {"min_value": "9999-12-31T00:00:00Z"}, 0),
        ("max", {"max_value": "2024-12-31"}, 1),
    ],
)
def test_dates_and_times_are_compared_with_text_of_any_form(context, column, kind, bounds, unexpected):
    dataset = times(context, OLD, date(1600, 2, 29), date(2024, 1, 2), None, NEW)
    where = {"values": "expect_column_values_to_be_between", "min": "expect_column_min_to_be_between"}
    check = expectation(where.get(kind, "expect_column_max_to_be_between"), column=column, **bounds)
    if not unexpected:
        assert validate(context, dataset, check).success
    elif kind == "values":
        result = validate(context, dataset, check, on_failure="quarantine")
        assert result.quarantined.rows == unexpected
        # Quarantined rows keep their types.
        assert open_dataset(context.store, result.quarantined).schema.field("day").type == pa.date32()
    else:
        with pytest.raises(ValidationError, match="0 of 1"):
            validate(context, dataset, check)


def test_dates_and_times_of_a_function_are_bounds_too(context):
    import great_expectations.expectations as gxe

    dataset = times(context, date(2024, 1, 2))
    for low in (date(2024, 1, 2), datetime(2024, 1, 2), datetime(2024, 1, 2, tzinfo=timezone.utc)):
        checks = [gxe.ExpectColumnValuesToBeBetween(column=name, min_value=low) for name in ("day", "at")]
        assert validate(context, dataset, *(check.configuration.to_json_dict() for check in checks)).success
    pair = expectation("expect_column_pair_values_to_be_equal", column_A="day", column_B="at")
    assert validate(context, dataset, pair).success


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (
            expectation("expect_column_values_to_be_between", column="day", min_value="yesterday"),
            "`min_value` of expect_column_values_to_be_between is 'yesterday', which is neither a number nor a date",
        ),
        (
            expectation("expect_column_values_to_be_between", column="at", max_value=20240102),
            r"`max_value` of expect_column_values_to_be_between\(at\) is the number .*'2024-03-05'",
        ),
        (
            expectation("expect_column_values_to_be_in_set", column="day", value_set=["2024-01-02"]),
            r"expect_column_values_to_be_in_set\(day\) has a `value_set`, which .* not support for a column of dates",
        ),
        (
            expectation(
                "expect_column_quantile_values_to_be_between",
                column="at",
                quantile_ranges={"quantiles": [0.5], "value_ranges": [["2024-01-01", None]]},
            ),
            r"expect_column_quantile_values_to_be_between\(at\) has a `quantile_ranges`",
        ),
    ],
)
def test_bounds_that_are_not_times_are_refused(context, check, message):
    with pytest.raises(SpecError, match=message) as refused:
        validate(context, times(context, date(2024, 1, 2)), check)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("highest", "passes"), [(1500, True), (600, False), (None, True)])
def test_quantiles_are_validated(context, flights, highest, passes):
    ranges = {"quantiles": [0.25, 0.5], "value_ranges": [[10, highest], [17, highest]]}
    check = expectation("expect_column_quantile_values_to_be_between", column="distance", quantile_ranges=ranges)
    if passes:
        assert validate(context, flights, check).success
    else:
        with pytest.raises(ValidationError, match="0 of 1"):
            validate(context, flights, check)


def test_names_notes_and_values_are_escaped_in_data_docs(tmp_path):
    import great_expectations as gx

    from airflow_mlops.stages.validate.checkpoint import run_suite
    from airflow_mlops.stages.validate.pages import self_contained

    def hostile(mark):
        return f"<a href='https://evil.example' id={mark}>x</a> & \"y\""

    column, expect = hostile("column"), gx.expectations
    table = pa.table({column: [1, 2], "x": [hostile("value"), "b"]})
    suite = gx.ExpectationSuite(
        name="s<a id=suite>",
        expectations=[
            expect.ExpectColumnValuesToBeBetween(column=column, max_value=1),
            expect.ExpectColumnValuesToBeInSet(column="x", value_set=[hostile("wanted")], notes=hostile("note")),
            expect.ExpectColumnValuesToMatchRegex(column="x", regex=hostile("regex")),
        ],
    )
    assert not run_suite(suite, table, "d<a id=asset>", tmp_path).success
    pages = {path.relative_to(tmp_path).parts[0]: path.read_text() for path in tmp_path.rglob("*.html")}
    shown = {
        "expectations": ("column", "suite", "wanted", "note", "regex"),
        "validations": ("column", "suite", "value", "asset"),
    }
    for section, marks in shown.items():
        for page in (pages[section], self_contained(pages[section])):
            assert not re.search(r"<a (id=|href=[\"']https://evil)", page)
            assert all(f" id={mark}&gt;" in page for mark in marks)
            assert "&amp;lt;" not in page
            # The markup of Great Expectations stays.
            assert "<table" in page


def test_the_cache_knows_a_suite_by_its_expectations_and_the_code_that_makes_them(
    flights, context, tmp_path, monkeypatch
):
    code = """
from great_expectations import ExpectationSuite
from great_expectations.expectations import ExpectColumnValuesToNotBeNull

class ExpectOwn(ExpectColumnValuesToNotBeNull):
    pass

def made():
    return ExpectationSuite(name="s", expectations=[ExpectOwn(column="carrier")])
"""
    (tmp_path / "own_suite.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    spec = ValidateSpec(dataset=flights, suite="own_suite:made")
    first = fingerprint(inputs(spec, context))
    assert fingerprint(inputs(spec, context)) == first
    (tmp_path / "own_suite.py").write_text(code + "# changed\n")
    assert fingerprint(inputs(spec, context)) != first


def test_a_column_is_not_checked_by_the_values_of_one_whose_name_differs_only_by_case(context):
    with DatasetWriter(context.store, "flights") as writer:
        writer.write(pa.table({"Distance": [1, 2], "distance": [100, 200], "carrier": ["UA", "AA"]}))
        ref = writer.commit(window=APRIL)[0].ref
    with pytest.raises(SchemaError, match="'Distance' and 'distance' differ only by letter case"):
        validate(context, ref, FAR)
    # Other columns can be checked.
    assert validate(context, ref, NOT_NULL).success
