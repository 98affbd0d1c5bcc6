"""Validation in batches gives the results of validation at once: outcomes, failing rows, Data Docs and datasets."""

from __future__ import annotations

import random
import re
from collections import Counter
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pyarrow as pa
import pytest
from great_expectations.execution_engine import pandas_execution_engine

from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.validate import batches, step
from airflow_mlops.stages.validate.batches import run_in_batches, unexpected_rows
from airflow_mlops.stages.validate.checkpoint import Session, exception_message, quiet_great_expectations, run_suite
from airflow_mlops.stages.validate.rows import Rows
from airflow_mlops.stages.validate.spec import ValidateSpec
from airflow_mlops.stages.validate.suites import load_suite

T0 = datetime(2024, 3, 5, tzinfo=timezone.utc)
VALUES = {
    "whole": (pa.int64(), [0, 1, 2, 30]),
    "gaps": (pa.int64(), [0, 1, None, 30]),
    "ids": (pa.int64(), [2**53 + 1, 2**60, None]),
    "unsigned": (pa.uint64(), [0, 2**64 - 1, None]),
    "double": (pa.float64(), [0.0, -0.0, 1.5, float("nan"), None]),
    "flag": (pa.bool_(), [True, False, None]),
    "price": (pa.decimal128(10, 2), [Decimal("1.50"), Decimal("2.00"), None]),
    "big": (pa.decimal128(30, 0), [Decimal(10) ** 20, Decimal(1), None]),
    "text": (pa.string(), ["a", "A", "b1", "", None]),
    "other": (pa.string(), ["a", "A", "b1"]),
    "at": (pa.timestamp("us", "UTC"), [T0, T0 + timedelta(microseconds=1), T0 + timedelta(days=9), None]),
    "day": (pa.date32(), [T0.date(), T0.date() + timedelta(days=9), None]),
    "nothing": (pa.float64(), [None]),
    "code": (pa.string(), [*(f"c{n}" for n in range(1_000)), None]),
}


def one(kind: str, **kwargs: object) -> dict[str, object]:
    return {"type": f"expect_{kind}", "kwargs": kwargs}


QUANTILES = {"quantiles": [0, 0.25, 1 / 3, 0.9], "value_ranges": [[0, 1], [None, 1], [0, None], [0, 9]]}
CONDITION = {"row_condition": "gaps > 0 and other != 'A'", "condition_parser": "pandas"}
CONDITIONED = [
    ("column_values_to_be_between", {"column": "whole", "max_value": 1}),
    ("column_values_to_be_null", {"column": "nothing"}),
    ("column_pair_values_to_be_equal", {"column_A": "text", "column_B": "other"}),
    ("column_values_to_be_unique", {"column": "whole"}),
    ("column_mean_to_be_between", {"column": "whole", "max_value": 1}),
    ("column_median_to_be_between", {"column": "whole", "max_value": 1}),
    ("column_distinct_values_to_equal_set", {"column": "text", "value_set": ["a"]}),
    ("column_proportion_of_non_null_values_to_be_between", {"column": "text", "min_value": 0.99}),
]
EXPECTATIONS = [
    one("column_values_to_be_between", column="whole", max_value=2),
    one("table_row_count_to_be_between", min_value=10, max_value=30),
    one("column_values_to_be_between", column="gaps", min_value=1, mostly=0.5),
    one("column_values_to_be_between", column="ids", max_value=2**53 + 2),
    one("column_values_to_be_between", column="unsigned", min_value=1),
    one("column_values_to_be_between", column="double", min_value=0.5),
    one("column_values_to_be_between", column="price", max_value=1.75),
    one("column_values_to_be_between", column="big", min_value=2),
    one("column_values_to_be_between", column="at", max_value="2024-03-05"),
    one("column_values_to_be_between", column="day", max_value="2024-03-06"),
    one("column_values_to_be_between", column="nothing", max_value=1),
    one("column_values_to_be_in_set", column="flag", value_set=[True]),
    one("column_values_to_be_in_set", column="ids", value_set=[2**60]),
    one("column_values_to_not_be_in_set", column="text", value_set=["A"]),
    one("column_values_to_not_be_null", column="text", mostly=0.6),
    one("column_values_to_be_null", column="nothing"),
    one("column_values_to_be_null", column="double"),
    one("column_value_lengths_to_be_between", column="text", min_value=1, max_value=1),
    one("column_values_to_match_regex", column="text", regex="^[a-z]"),
    one("column_values_to_not_match_regex_list", column="other", regex_list=["^A$", "1"]),
    one("column_values_to_match_regex", column="code", regex="^c[0-4]"),
    one("column_values_to_not_be_null", column="TEXT"),
    one("column_pair_values_to_be_equal", column_A="text", column_B="other"),
    one("column_pair_values_a_to_be_greater_than_b", column_A="whole", column_B="gaps", or_equal=True),
    one("multicolumn_sum_to_equal", column_list=["whole", "gaps"], sum_total=2),
    one("select_column_values_to_be_unique_within_record", column_list=["text", "other"]),
    *(one("column_values_to_be_unique", column=name) for name in ("ids", "double", "text", "at", "day", "price", "flag")),
    one("column_values_to_be_unique", column="number"),
    one("column_values_to_be_unique", column="nothing"),
    one("compound_columns_to_be_unique", column_list=["whole", "text", "double"]),
    one("compound_columns_to_be_unique", column_list=["ids", "flag"], ignore_row_if="never", mostly=0.1),
    one("compound_columns_to_be_unique", column_list=["at", "price"], ignore_row_if="any_value_is_missing"),
    *(one("column_min_to_be_between", column=name, max_value=1) for name in ("ids", "double", "flag", "price")),
    one("column_min_to_be_between", column="other"),
    one("column_min_to_be_between", column="day", min_value="2024-03-06"),
    *(one("column_mean_to_be_between", column=name, max_value=0.5) for name in ("gaps", "double", "flag", "big")),
    *(one("column_sum_to_be_between", column=name, max_value=1) for name in ("whole", "flag", "nothing")),
    one("column_max_to_be_between", column="at", max_value="2024-03-06"),
    one("column_distinct_values_to_be_in_set", column="other", value_set=["a", "A", "b1"]),
    one("column_distinct_values_to_be_in_set", column="whole", value_set=[1, 30]),
    one("column_distinct_values_to_contain_set", column="gaps", value_set=[1, 2]),
    one("column_distinct_values_to_equal_set", column="text", value_set=["a", "z"]),
    one("column_unique_value_count_to_be_between", column="at", max_value=2),
    one("column_proportion_of_unique_values_to_be_between", column="price", max_value=0.1),
    one("column_proportion_of_non_null_values_to_be_between", column="text", min_value=0.9),
    *(one("column_most_common_value_to_be_in_set", column=name, value_set=[1, "a"]) for name in ("ids", "other", "nothing")),
    *(one("column_median_to_be_between", column=name, max_value=1) for name in ("gaps", "ids", "flag", "price", "nothing", "at")),
    *(one("column_quantile_values_to_be_between", column=name, quantile_ranges=QUANTILES) for name in ("gaps", "ids", "nothing")),
    one("column_quantile_values_to_be_between", column="price", quantile_ranges=QUANTILES, allow_relative_error="linear"),
    one("column_values_to_be_increasing", column="gaps", mostly=0.5),
    one("column_values_to_be_decreasing", column="at", strictly=True),
    *(one("column_values_to_be_of_type", column=name, type_="str") for name in ("other", "whole")),
    one("multicolumn_values_to_be_equal", column_list=["text", "other"]),
    *(one(kind, **given, **CONDITION) for kind, given in CONDITIONED),
    one("column_values_to_not_be_null", column="text", row_condition="whole > whole.mean()", condition_parser="pandas"),
    one("column_to_exist", column="price"),
    one("column_type_to_be", column="gaps", type_="float64"),
    one("table_columns_to_match_ordered_list", column_list=[*VALUES, "number"]),
]  # fmt: skip


def table(seed: int, rows: int) -> pa.Table:
    draw = random.Random(seed)
    columns = {
        name: pa.array([draw.choice(values) for _ in range(rows)], kind) for name, (kind, values) in VALUES.items()
    }
    return pa.table(columns | {"number": range(rows)})


@pytest.fixture
def context(tmp_path) -> StepContext:
    quiet_great_expectations()
    return StepContext(store=ArtifactStore(f"file://{tmp_path}/store"))


def write(context: StepContext, data: pa.Table) -> DatasetRef:
    with DatasetWriter(context.store, "rows") as writer:
        writer.write(data)
        return writer.commit()[0].ref


def test_batches_have_the_results_of_the_whole_table(context, tmp_path):
    data = table(1, 23)
    dataset = open_dataset(context.store, write(context, data))
    sites = [tmp_path / name for name in ("whole", "batches")]
    for site in sites:
        site.mkdir()
    whole = run_suite(load_suite({"name": "s", "expectations": EXPECTATIONS}), data, "rows", sites[0])
    suite = load_suite({"name": "s", "expectations": EXPECTATIONS})
    found, failing = run_in_batches(suite, Rows([dataset], batch_rows=12), "rows", sites[1])
    assert found.success == whole.success
    assert found.statistics == whole.statistics
    assert len(found.results) == len(whole.results) == len(EXPECTATIONS)
    for mine, theirs, rows in zip(found.results, whole.results, failing, strict=True):
        config, other = (item.expectation_config.to_json_dict() for item in (mine, theirs))
        assert {**config, "id": ""} == {**other, "id": ""}
        assert mine.success == theirs.success, config
        assert exception_message(mine) == exception_message(theirs), config
        assert rows.first(len(rows)).tolist() == unexpected_rows(theirs).tolist(), config
        lists = {"unexpected_list", "unexpected_index_list", "unexpected_index_query"}
        results = [
            str(sorted((key, value) for key, value in item.result.items() if key not in lists))
            for item in (mine, theirs)
        ]
        assert results[0] == results[1], config
        assert ("unexpected_index_list" in mine.result) == ("unexpected_index_list" in theirs.result)
    pages = [next(site.glob("validations/**/*.html")).read_text() for site in sites]
    assert "expect" in pages[1] or "must" in pages[1]
    assert pages[1].count("failed-icon") == pages[0].count("failed-icon")
    assert all("Data asset: rows<" in page for page in pages)


def test_great_expectations_sees_three_batches_at_most_and_only_the_columns_of_the_expectations(
    context, tmp_path, monkeypatch
):
    """The memory would grow with the rows of the window, and Great Expectations copies all columns for each expectation."""
    sizes, columns, fingerprints = [], [], []

    class Watched(Session):
        def run(self, frame=None):
            sizes.append(len(frame))
            return super().run(frame)

        def check(self, expectations, frame):
            sizes.append(len(frame))
            columns.append([*frame.columns])
            return super().check(expectations, frame)

    monkeypatch.setattr(pandas_execution_engine, "hash_pandas_dataframe", lambda frame: fingerprints.append(frame))
    monkeypatch.setattr(batches, "Session", Watched)
    monkeypatch.setattr(Rows, "table", None)
    kinds = [
        one("column_values_to_be_between", column="whole", max_value=2),
        one("column_values_to_not_match_regex", column="other", regex="c"),
        one("column_values_to_match_regex", column="code", regex="c"),
        one("column_values_to_be_unique", column="whole"),
        one("column_values_to_be_unique", column="number"),
        one("column_to_exist", column="whole"),
        one("table_column_count_to_equal", value=len(VALUES) + 1),
        one("table_row_count_to_equal", value=200),
        one("table_row_count_to_be_between", min_value=1, max_value=199),
        *(one(f"column_{name}_to_be_between", column="whole") for name in ("min", "max", "mean", "sum", "stdev")),
        one("compound_columns_to_be_unique", column_list=["whole", "text"]),
        one("column_distinct_values_to_be_in_set", column="other", value_set=["a", "A", "b1"]),
        one("column_unique_value_count_to_be_between", column="number", max_value=200),
        one("column_most_common_value_to_be_in_set", column="flag", value_set=[True, False], ties_okay=True),
        one("column_median_to_be_between", column="number", max_value=200),
        one("column_quantile_values_to_be_between", column="number", quantile_ranges={"quantiles": [0.5], "value_ranges": [[9, 190]]}),
        one("column_proportion_of_non_null_values_to_be_between", column="other", min_value=1),
        one("column_values_to_be_null", column="nothing", **CONDITION),
        one("column_values_to_be_unique", column="whole", **CONDITION),
        one("column_mean_to_be_between", column="whole", **CONDITION),
        one("column_median_to_be_between", column="whole", **CONDITION),
    ]  # fmt: skip
    dataset = open_dataset(context.store, write(context, table(3, 200)))
    suite = load_suite({"name": "s", "expectations": kinds})
    found, failing = run_in_batches(suite, Rows([dataset], batch_rows=40), "rows", tmp_path)
    # Four expectations are about single rows. That with a condition sees one batch at a time.
    assert len(sizes) == 1 + 2 * 3 + 5 + len(kinds) - 4
    # The texts of `other` repeat, and each is checked once.
    assert sizes[:12] == [40, 120, 3, 120, 40, 40, 40, 80, 3, 80, 40, 40]
    assert max(sizes) == 120
    conditioned = ["other", "nothing", "gaps"]
    assert [*map(sorted, columns[:7])] == [["whole"], ["other"], ["code"], *[sorted(conditioned)] * 3, ["whole"]]
    # Great Expectations would hash all rows that it sees, twice.
    assert len(fingerprints) == 1
    assert {len(rows) for rows, result in zip(failing, found.results, strict=True) if result.success} == {0}
    assert len(max(failing, key=len)) == 200
    counts = [one for one in found.results if one.expectation_config.type.startswith("expect_table_row_count")]
    assert [(one.success, one.result) for one in counts] == [
        (True, {"observed_value": 200}), (False, {"observed_value": 200})
    ]  # fmt: skip


@pytest.mark.parametrize("batch_rows", [5, 2])
def test_sums_of_integers_beyond_64_bits_are_exact(batch_rows, context, tmp_path):
    large = 2**62
    data = pa.table({
        "whole": [large, large, large, 0],
        "gaps": [-large, None, -large, -large],
        "unsigned": pa.array([2**63, 2**63, 2**63, 1], pa.uint64()),
        "use": [1, 1, 0, 1],
    })  # fmt: skip
    exact = {"whole": 3 * large, "gaps": -3 * large, "unsigned": 3 * 2**63 + 1}
    checks = [one("column_sum_to_be_between", column=name, min_value=-(2.0**65), max_value=2.0**65) for name in exact]
    # The sum of pandas is in this range, as all its other sums are.
    checks.append(one("column_sum_to_be_between", column="WHOLE", max_value=0))
    used = {"row_condition": "use == 1", "condition_parser": "pandas"}
    checks.append(one("column_sum_to_be_between", column="whole", min_value=-(2.0**65), **used))
    suite = load_suite({"name": "s", "expectations": checks})
    (site := tmp_path / "site").mkdir()
    if batch_rows >= len(data):
        found = run_suite(suite, data, "rows", site)
    else:
        rows = Rows([open_dataset(context.store, write(context, data))], batch_rows)
        found, _ = run_in_batches(suite, rows, "rows", site)
    sums = [
        (item.expectation_config.kwargs["column"], item.result["observed_value"], item.success)
        for item in found.results
    ]
    wanted = [(name, total, True) for name, total in exact.items()]
    assert sorted(sums) == sorted([*wanted, ("WHOLE", 3 * large, False), ("whole", 2 * large, True)])
    assert (found.success, found.statistics["unsuccessful_expectations"]) == (False, 1)


def validated(checks, data, batch_rows, context, folder):
    """Validate rows at once, or in batches if there are more than ``batch_rows`` rows."""
    suite = load_suite({"name": "s", "expectations": checks})
    if batch_rows >= len(data):
        return run_suite(suite, data, "rows", folder)
    rows = Rows([open_dataset(context.store, write(context, data))], batch_rows)
    return run_in_batches(suite, rows, "rows", folder)[0]


LARGE_IDS = {
    "large": [2**53 + 1, 5], "other": [2**53 + 1, 6], "double": [2.0**53, 5.0], "price": [Decimal("1.50"), Decimal("5.00")],
    "whole": [Decimal(2**53), Decimal(5)], "long": [Decimal(2**53 + 2), Decimal(5)], "small": [2**53, 5],
}  # fmt: skip
PAIR = "column_pair_values_to_be_equal"


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (one(PAIR, column_A="double", column_B="large"), "compares column 'large', .* with column 'double' of double"),
        (one(PAIR, column_A="large", column_B="price"), "with column 'price' of decimal128"),
        (one(PAIR, column_A="large", column_B="whole"), "with column 'whole' of decimal128"),
        (one("multicolumn_sum_to_equal", column_list=["small", "large"], sum_total=1), "adds column 'large'"),
        (one("multicolumn_values_to_be_equal", column_list=["large", "double"]), "with column 'double'"),
    ],
)
def test_columns_that_pandas_would_round_are_refused(check, message, context, tmp_path):
    with pytest.raises(SpecError, match=message):
        validated([check], pa.table(LARGE_IDS), 1, context, tmp_path)


def test_columns_with_large_integers_are_compared_exactly_with_other_integers(context, tmp_path):
    checks = [
        *(one(PAIR, column_A="large", column_B=name) for name in ("other", "long", "small")),
        one(PAIR, column_A="small", column_B="double"),
        one("multicolumn_sum_to_equal", column_list=["small", "double"], sum_total=10),
    ]
    found = validated(checks, pa.table(LARGE_IDS), 1, context, tmp_path)
    # Row 0 of `small` and `double` adds to 2**54.
    assert [item.result["unexpected_count"] for item in found.results] == [1, 1, 1, 0, 1]


@pytest.mark.parametrize("batch_rows", [5, 2])
def test_extremes_and_sums_beyond_53_bits_are_compared_exactly(batch_rows, context, tmp_path):
    """NumPy would round the integer to the double with which it is compared."""
    large = 2**53
    data = pa.table({
        "whole": [large + 1, large, large],
        "gaps": [large + 1, None, large],
        "unsigned": pa.array([large + 1, large, 1], pa.uint64()),
        "negative": [-large - 1, None, 0],
        "added": [large, 1, 0],
    })  # fmt: skip
    checks = [
        *(one("column_max_to_be_between", column=name, max_value=large) for name in ("whole", "gaps", "unsigned")),
        one("column_min_to_be_between", column="negative", min_value=-large),
        one("column_sum_to_be_between", column="added", max_value=large),
        *(
            one("column_max_to_be_between", column="whole", max_value=limit, row_condition=condition, condition_parser="pandas")
            for limit, condition in ((large, "added == 1"), (2 * large, "whole / 2 > 1"))
        ),
    ]  # fmt: skip
    found = validated(checks, data, batch_rows, context, tmp_path)
    assert sorted((item.result["observed_value"], item.success) for item in found.results) == [
        (-large - 1, False), (large, True), *[(large + 1, False)] * 4, (large + 1, True)
    ]  # fmt: skip


@pytest.mark.parametrize("batch_rows", [5, 2])
def test_integers_with_fewer_than_two_values_have_quantiles_and_z_scores(batch_rows, context, tmp_path):
    """The expectation about the text makes the columns the type Int64 of pandas, with NA instead of NaN."""
    data = pa.table({"none": pa.nulls(3, pa.int64()), "one": pa.array([None, 7, None], pa.int64())})
    checks = [
        expectation for name in data.column_names for expectation in (
            one("column_values_to_match_regex", column=name, regex="7"),
            one("column_quantile_values_to_be_between", column=name, quantile_ranges={"quantiles": [0.5], "value_ranges": [[7, 7]]}),
            one("column_value_z_scores_to_be_less_than", column=name.upper(), threshold=1, double_sided=True),
        )
    ]  # fmt: skip
    found = validated(checks, data, batch_rows, context, tmp_path)
    failed = [item.expectation_config for item in found.results if not item.success]
    assert [(config.type, config.kwargs["column"]) for config in failed] == [(checks[1]["type"], "none")]
    assert not any(map(exception_message, found.results))


def test_several_expectations_about_quantiles_of_a_column_have_their_own_quantiles(context, tmp_path):
    checks = [
        one("column_quantile_values_to_be_between", column="x", quantile_ranges={"quantiles": [n / 10], "value_ranges": [[n, n]]})
        for n in (5, 0, 10)
    ]  # fmt: skip
    found = run_suite(load_suite({"name": "s", "expectations": checks}), pa.table({"x": range(11)}), "rows", tmp_path)
    values = [item.result["observed_value"] for item in found.results]
    assert values == [{"quantiles": [n / 10], "values": [n]} for n in (5, 0, 10)]
    assert found.success


@pytest.mark.parametrize("batch_rows", [2_000, 400])
def test_data_docs_count_all_unexpected_values_and_give_no_counts_of_a_sample(batch_rows, context, tmp_path):
    """Great Expectations itself counts 200 of them in each batch."""
    rows = 1_000
    data = pa.table({
        "few": pa.array([None if n % 2 else n % 8 / 2 for n in range(rows)], pa.float64()),
        "many": [f"v{n % 50}" for n in range(rows)],
        "other": ["v1"] * rows,
    })  # fmt: skip
    expectations = [
        one("column_values_to_not_be_null", column="few"),
        one("column_values_to_be_between", column="few", min_value=2),
        one("column_values_to_match_regex", column="many", regex="^w"),
        one("column_pair_values_to_be_equal", column_A="other", column_B="few"),
    ]
    suite = load_suite({"name": "s", "expectations": expectations})
    if batch_rows > rows:
        found = run_suite(suite, data, "rows", tmp_path)
    else:
        dataset = open_dataset(context.store, write(context, data))
        found, _ = run_in_batches(suite, Rows([dataset], batch_rows), "rows", tmp_path)
    counts = {}
    for result in found.results:
        assert result.result["unexpected_count"] > 200
        kind = result.expectation_config.type.removeprefix("expect_")
        counts[kind] = {item["value"]: item["count"] for item in result.result["partial_unexpected_counts"]}
    assert counts["column_values_to_not_be_null"] == {None: 500}
    assert counts["column_values_to_be_between"] == {0.0: 125, 1.0: 125}
    assert {*counts["column_values_to_match_regex"].values()} == {20}
    assert sum(counts["column_pair_values_to_be_equal"].values()) == 1_000
    page = next(tmp_path.glob("validations/**/*.html")).read_text()
    shown = Counter(re.findall(r">\s*([^<>]+?)\s*<", page))
    # Only 20 of the 50 values are listed.
    assert (shown["Unexpected Value"], shown["Sampled Unexpected Values"]) == (3, 1)
    assert (shown["125"], shown["500"], shown["20"]) == (6, 2, 0)


@pytest.mark.parametrize("batch_rows", [100, 2])
def test_the_text_of_an_integer_does_not_depend_on_other_rows(batch_rows, context, tmp_path):
    """In pandas, 7 becomes 7.0 if another value is null or the column has decimals."""
    data = pa.table({
        "whole": pa.array([12345, 10, None, 54321], pa.int64()),
        "decimal": pa.array([12345, 10, 11111, 54321], pa.decimal128(10, 0)),
    })  # fmt: skip
    expectations = [
        *(one("column_values_to_match_regex", column=name, regex="^[0-9]{5}$") for name in data.column_names),
        *(one("column_values_to_not_match_regex", column=name.upper(), regex="^10$") for name in data.column_names),
        *(one("column_value_lengths_to_equal", column=name, value=5) for name in data.column_names),
        one("column_mean_to_be_between", column="whole", min_value=22_225, max_value=22_226),
        one("column_values_to_be_between", column="whole", max_value=54_321.5),
    ]  # fmt: skip
    rows = Rows([open_dataset(context.store, write(context, data))], batch_rows)
    suite = load_suite({"name": "s", "expectations": expectations})
    if rows.fits:
        results = run_suite(suite, data, "rows", tmp_path).results
        failing = [unexpected_rows(result) for result in results]
    else:
        found, failing = run_in_batches(suite, rows, "rows", tmp_path)
        results = found.results
    by_kind = {True: [], False: []}
    for result, failed in zip(results, failing, strict=True):
        by_kind["between" in result.expectation_config.type].append(
            (result.success, failed.tolist() if rows.fits else failed.between(0, rows.count).tolist())
        )
    assert by_kind == {True: [(True, [])] * 2, False: [(False, [1])] * 6}


def test_the_written_datasets_are_the_same(context, monkeypatch):
    data = table(2, 20)
    reference = write(context, data)
    expectations = [item for item in EXPECTATIONS if "column_values_to_be_between" in item["type"]][:4]
    made = []
    for size in (100, 6):
        monkeypatch.setattr(step, "Rows", lambda datasets, size=size: Rows(datasets, batch_rows=size))
        spec = ValidateSpec(
            dataset=reference, suite={"name": "s", "expectations": expectations}, on_failure="quarantine"
        )
        made.append(step.run(spec, context))
    whole, batches = made
    assert (whole.outcomes, whole.summary) == (batches.outcomes, batches.summary)
    # Each batch has its own files, so the ids differ.
    for one, other in ((whole.dataset, batches.dataset), (whole.quarantined, batches.quarantined)):
        written = open_dataset(context.store, other)
        # NaN does not equal NaN, but has the same text.
        assert str(written.table().to_pylist()) == str(open_dataset(context.store, one).table().to_pylist())
        assert 1 < len(written.manifest.files) <= 4
    assert 0 < whole.quarantined.rows < 20
    assert whole.dataset.rows + whole.quarantined.rows == 20
    counts = open_dataset(context.store, batches.quarantined).manifest.details["unexpected"]
    assert sum(counts.values()) >= whole.quarantined.rows
