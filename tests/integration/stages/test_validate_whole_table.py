"""Expectations about several rows together have the results of pandas, from batches of the rows."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.data.frames import ColumnFacts, as_frame
from airflow_mlops.stages.validate import distinct, quantiles
from airflow_mlops.stages.validate.checkpoint import quiet_great_expectations
from airflow_mlops.stages.validate.conditions import row_condition
from airflow_mlops.stages.validate.duplicates import repeated_rows
from airflow_mlops.stages.validate.rows import Rows
from airflow_mlops.stages.validate.selected import ConditionError, Selected
from airflow_mlops.stages.validate.times import with_timestamps
from tests.integration.stages.test_validate_batches import VALUES, table
from tests.unit.stages.validate.test_aggregates import COLUMNS

FRACTIONS = [0, 0.1, 0.25, 1 / 3, 0.5, 0.77, 1]
ROW_WISE = [
    "gaps > 0", "0 < whole <= 1", "text == 'a'", "`with space` != 'a' and double < 1.0", "text.isnull() | flag.notnull()",
    "(price >= 1.5) & ~(ids.isnull())", "whole > 0 & number < 12", "whole in [0, 1]", "at > '2024-03-05T00:00Z'", "day.dt.month == 3",
    "other.str.startswith('b')", "other.str.len() == 1 or not whole == 1", "whole + number * 2 < -(-20)", "text == other",
    "gaps == [1, 30]", "whole.isin([0, 30])", "other.str.contains('`')",
]  # fmt: skip
NOT_ROW_WISE = [
    "price > price.mean()", "index > 3", "whole", "whole + 1", "number.rank() < 3", "whole in gaps", "number.diff() > 1",
    "missing > 1", "whole > @limit", "whole = 1", "whole >", "True", "number[0] > 1", "text == '`' and index > '`'.len()",
    "`missing` > 1", "flag & gaps",
]  # fmt: skip


def conditioned(text: object) -> SimpleNamespace:
    from great_expectations.expectations.row_conditions import PassThroughCondition

    quiet_great_expectations()
    given_condition = PassThroughCondition(pass_through_filter=text) if isinstance(text, str) else text
    return SimpleNamespace(row_condition=given_condition)


def facts_of(data: pa.Table) -> dict[str, ColumnFacts]:
    return {name: ColumnFacts().with_values(data[name]) for name in data.column_names}


def in_batches(data: pa.Table, sizes: list[int], condition: object = None) -> Selected:
    """Return rows that are read in batches of some sizes."""

    def columns(names: list[str]) -> list[tuple[int, pa.Table]]:
        ends = np.cumsum([0, *sizes])
        found = [(int(end), data.select(names).slice(end, size)) for end, size in zip(ends, sizes, strict=False)]
        return [*found, (int(ends[-1]), data.select(names).slice(ends[-1]))]

    rows = SimpleNamespace(schema=data.schema, columns=columns, count=len(data))
    return Selected(rows, facts_of(data), condition)


@pytest.mark.parametrize("text", ROW_WISE)
def test_a_row_wise_condition_selects_the_rows_of_the_whole_table(text):
    data = table(5, 30)
    data = data.append_column("with space", data["other"])
    condition = row_condition(conditioned(text), data.schema)
    expected = as_frame(with_timestamps(data)).query(text)
    assert len(expected) < len(data)
    selected = in_batches(data, [7, 0, 1, 12], condition)
    parts = list(selected.tables(["number"]))
    assert np.concatenate([numbers for numbers, _ in parts]).tolist() == expected.index.tolist()
    assert pa.concat_tables([values for _, values in parts])["number"].to_pylist() == expected["number"].tolist()
    assert selected.count() == len(expected)


@pytest.mark.parametrize("text", NOT_ROW_WISE)
def test_a_condition_that_may_depend_on_other_rows_is_recognised(text):
    assert row_condition(conditioned(text), table(5, 3).schema) is None


def test_the_conditions_of_great_expectations_are_row_wise():
    from great_expectations.expectations.row_conditions import Column

    found = (Column("whole") > 1) & Column("text").is_not_null() & Column("other").is_in(["a"])
    assert row_condition(conditioned(found), table(5, 3).schema).columns == ["whole", "text", "other"]
    assert row_condition(conditioned(Column("missing") > 1), table(5, 3).schema) is None


def test_a_condition_that_pandas_cannot_evaluate_is_an_error_with_the_rows():
    data = table(5, 8)
    condition = row_condition(conditioned("text > 3"), data.schema)
    with pytest.raises(ConditionError) as error:
        quantiles.metrics(expectation("column_median", "whole"), in_batches(data, [4], condition))
    assert error.value.table.column_names == ["whole", "text"]


def expectation(kind: str, column: str = "x", **kwargs: object) -> SimpleNamespace:
    ending = "be_in_set" if kind == "column_most_common_value" else "be_between"
    name = kind if kind.startswith("expect_") else f"expect_{kind}_to_{ending}"
    return SimpleNamespace(expectation_type=name, column=column, configuration=SimpleNamespace(kwargs=kwargs))


def same(mine: object, theirs: object) -> bool:
    return bool(mine == theirs and type(mine) is type(theirs)) or (pd.isna(mine) and pd.isna(theirs))


def metric(kind: str, rows: Selected, **kwargs: object) -> object:
    one = expectation(kind, **kwargs)
    if distinct.can_count(one, rows.schema):
        (found,) = distinct.metrics(one, rows).values()
    else:
        assert quantiles.can_sort(one, rows.schema, rows.facts["x"])
        (found,) = quantiles.metrics(one, rows).values()
    return found


@pytest.mark.parametrize("name", COLUMNS)
@settings(max_examples=2)
@given(data=st.data())
def test_values_of_one_column_are_those_of_pandas(name, data):
    kind, values = COLUMNS[name]
    few = data.draw(st.lists(values, min_size=1, max_size=3))
    # Many ties.
    drawn = data.draw(st.lists(st.sampled_from([*few, None]) | values, max_size=12))
    rows = pa.table({"x": pa.array(drawn, kind)})
    batches = in_batches(rows, [data.draw(st.integers(0, len(drawn)))])
    whole = as_frame(with_timestamps(rows), batches.facts)["x"]
    assert metric("column_unique_value_count", batches) == whole.nunique()
    known = whole.notna().sum()
    assert metric("column_proportion_of_unique_values", batches) == (whole.nunique() / known if known else 0)
    modes, expected = metric("column_most_common_value", batches), list(whole.mode().values)
    assert len(modes) == len(expected)
    assert all(map(same, modes, expected))
    allowed = [*drawn[:1], *(item for item in few if item is not None)]
    sets = distinct.metrics(
        expectation("expect_column_distinct_values_to_equal_set", value_set=allowed), batches
    ).values()
    present = {*whole.dropna().unique()}
    unexpected, shown, missing, absent = sets
    assert (unexpected, shown) == (len(present - {*allowed}), sorted(present - {*allowed})[:20])
    assert (missing, {*absent}) == (len({*allowed} - present), {*allowed} - present)
    if name != "text":
        with np.errstate(all="ignore"):
            assert same(metric("column_median", batches), whole.dropna().median())
    for method in data.draw(st.permutations([False, "nearest", "lower", "higher", "linear", "midpoint"]))[:3]:
        given_ranges = {"quantile_ranges": {"quantiles": FRACTIONS}, "allow_relative_error": method}
        one = expectation("column_quantile_values", **given_ranges)
        if quantiles.can_sort(one, rows.schema, batches.facts["x"]):
            with np.errstate(all="ignore"):
                expected = whole.quantile(FRACTIONS, interpolation=method or "nearest").tolist()
                found = quantiles.metrics(one, batches)["column.quantile_values"]
            assert len(found) == len(expected)
            assert all(map(same, found, expected)), (method, found, expected)
        else:
            assert name in ("text", "at", "day", "flag") or method in ("linear", "midpoint") or whole.dtype == object


@settings(max_examples=6)
@given(data=st.data())
def test_repeated_rows_of_several_columns_are_those_of_pandas(data):
    draw = random.Random(data.draw(st.integers(0, 999)))
    names = data.draw(st.lists(st.sampled_from([*VALUES]), min_size=1, max_size=3, unique=True))
    rows = table(draw.randrange(999), data.draw(st.integers(0, 20)))
    batches = in_batches(rows, [len(rows) // 2])
    frame = as_frame(with_timestamps(rows), batches.facts)[names]
    ignored = data.draw(st.sampled_from(["any_value_is_missing", "all_values_are_missing", "never"]))
    kept = frame if ignored == "never" else frame.dropna(how="any" if ignored.startswith("any") else "all")
    found = repeated_rows(batches, names, 5, ignored)
    expected = kept.index[kept.duplicated(keep=False)].tolist()
    assert found.numbers.first(99).tolist() == expected
    assert (found.count, found.missing) == (len(rows), len(rows) - len(kept))
    # -0.0 and 0.0, and all missing values, count as the same value.
    groups = [group.index for _, group in kept.loc[expected].groupby(names, dropna=False, sort=False)]
    most = sorted(((int(group[0]), len(group)) for group in groups), key=lambda item: (-item[1], item[0]))
    assert found.frequent == most[:5]


def test_rows_are_read_in_batches(tmp_path):
    from airflow_mlops.data.datasets import open_dataset
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.stages.context import StepContext
    from tests.integration.stages.test_validate_batches import write

    context = StepContext(store=ArtifactStore(f"file://{tmp_path}/store"))
    rows = Rows([open_dataset(context.store, write(context, table(3, 10)))], batch_rows=4)
    parts = list(rows.columns(["number", "text"]))
    assert [first for first, _ in parts] == [0, 4, 8]
    assert pa.concat_tables([values for _, values in parts])["number"].to_pylist() == list(range(10))
