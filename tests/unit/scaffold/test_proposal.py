"""What is proposed for a table, what is asked, and what is refused."""

from __future__ import annotations

import ast
import dataclasses
import json
import random
import sqlite3
import sys
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment, TemplateError

from airflow_mlops.core.errors import SpecError
from airflow_mlops.scaffold import files, schedules, suite
from airflow_mlops.scaffold.answers import Given
from airflow_mlops.scaffold.proposal import propose
from airflow_mlops.scaffold.query import of_table
from airflow_mlops.scaffold.sample import Sample

START = datetime(2024, 1, 1, tzinfo=timezone.utc)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


class Silent:
    """Nobody answers; the flags that would have been asked for are kept."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def choose(self, flag, question, options):
        self.asked.append(flag)
        raise SpecError(flag)

    choose_several = choose

    def duration(self, flag, question):
        self.asked.append(flag)
        raise SpecError(flag)

    def confirm(self, question):
        return False


def table(rows: int = 600, **columns) -> pa.Table:
    """Rows of 600 days: an id, a time, a number and a label that alternates, changed by ``columns``; ``None`` removes one."""
    content = {
        "order_id": pa.array(range(rows)),
        "at": pa.array([START + timedelta(days=row * 600 / rows) for row in range(rows)], pa.timestamp("us", "UTC")),
        "amount": pa.array([row % 7 * 1.5 for row in range(rows)]),
        "late": pa.array([row % 2 for row in range(rows)]),
        **columns,
    }
    return pa.table({name: values for name, values in content.items() if values is not None})


def proposed(found: pa.Table, complete: bool = True, **given_):
    answers = {"label": "late", "label_delay": timedelta(0), **given_}
    return propose(Sample(found, complete, []), Given(**answers), Silent())


def test_everything_but_the_label_and_its_delay_is_found():
    person = Silent()
    with pytest.raises(SpecError, match="--label$"):
        propose(Sample(table(), True, []), Given(), person)
    with pytest.raises(SpecError, match="--label-delay$"):
        propose(Sample(table(), True, []), Given(label="late"), person)
    found = proposed(table())
    assert (found.time, found.keys, found.features) == ("at", ["order_id"], ["amount"])
    assert (found.task, found.positive, found.every) == ("binary", None, "month")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (pa.array([None] * 600, pa.float64()), "empty"),
        (pa.array(["EU"] * 600), "the same in all rows"),
        (pa.array([f"note {row}" for row in range(600)] * 3)[:600], "different in most rows"),
        (pa.array([[1.0]] * 600), "of the type list"),
        (pa.array([float("-inf"), *map(float, range(599))]), "infinite in 1 row"),
        (pa.array([-1e308, None, *map(float, range(598))]), "beyond single precision (3.4e38) in 1 row"),
        (pa.array([3.4e38, float("nan"), *map(float, range(598))]), None),
        (pa.nulls(600), "empty"),
        (pa.array(["31.12.2024", "01.01.2025"] * 300), "a date that is not in ISO 8601"),
        (pa.array(["12/31/24 10:00", "1/1/25 9:00"] * 300), "a date that is not in ISO 8601"),
        (pa.array(["31-Dec-2024", "2024/12/31"] * 300), "a date that is not in ISO 8601"),
        (pa.array(["1.2.3.4", "10.5.24b", "12-20"] * 200), None),
        (
            pa.array(["1.234,50 €", "-3,00 €", "1.234.567 €"] * 200),
            "text that looks like amounts, such as '1.234,50 €'",
        ),
        (pa.array(["$1,234.50", "$5", "($3)"] * 200), "text that looks like amounts"),
        (pa.array(["EUR 12", "12 %", "1'000.5"] * 200), "text that looks like amounts"),
        (pa.array(["\u22123", "\u22124"] * 300), "text that looks like amounts, such as '\u22123'"),
        (pa.array(["12 %", "n/a", "7 %"] * 200), "text that looks like amounts, such as '12 %'"),
        (pa.array(["n/a", "1.234,50 €"] * 300), "text that looks like amounts, such as '1.234,50 €'"),
        (pa.array(["31.12.2024", "-"] * 300), "a date that is not in ISO 8601"),
        (pa.array(["12", "7.5", "NULL"] * 200), "text that contains 'NULL' among numbers"),
        (pa.array(["?", *map(str, range(599))]), "text that contains '?' among numbers"),
        (pa.array([None, "12 pieces", *map(str, range(598))]), "text that contains '12 pieces' among numbers"),
        (pa.array(["1", "2", "X"] * 200), None),
        (pa.array(["0712", "0815", "-"] * 200), None),
        (pa.array(["UA 123", "12", "1,5,6"] * 200), None),
        (pa.array(["030 123 456", "007", "12"] * 200), None),
        (pa.array([None] * 300 + [1.0] * 300), None),
        (pa.array(["2024-03-05"] * 599 + ["2024-03-06"]), "a time"),
    ],
)
def test_a_column_that_cannot_be_a_feature_is_excluded_with_the_reason(values, reason):
    found = proposed(table(other=values), time="at")
    if reason is None:
        assert "other" in found.features
    else:
        assert found.excluded["other"].startswith(reason)


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ([18, 40, 90, -999], "-999"),
        ([1.0, 2.5, 3.0, -9.0], "-9"),
        ([Decimal(1), Decimal(4), Decimal(2), Decimal(99)], "99"),
        ([18, 40, 90, 99], None),
        ([0, 500, 700, 999], None),
        ([18, 40, 90, -998], None),
        ([-999, 0, 0, 0], None),
    ],
)
def test_numbers_that_probably_mean_a_missing_value_are_named(values, code):
    found = Sample(table(amount=pa.array([values[row // 2 % 4] for row in range(600)])), True, [])
    propose(found, Given(label="late", label_delay=timedelta(0)), Silent())
    assert ["'amount'" in note and f"'na_values': ['{code}']" in note for note in found.notes] == [True] * (
        code is not None
    )


def test_a_label_and_a_chosen_feature_of_amounts_are_named():
    amounts = pa.array(["$1,234.50", "$5", "$3"] * 200)
    sample = Sample(table(late=amounts, price=pa.array(["$1,234.50", "$5"] * 300)), True, [])
    propose(sample, Given(label="late", label_delay=timedelta(0), features=["price"]), Silent())
    for name, note in zip(("late", "price"), sample.notes, strict=True):
        assert f"{name!r} looks like amounts, such as '$1,234.50'" in note


@pytest.mark.parametrize(
    ("rows", "distinct", "is_free"),
    [(2_000, 2_000, True), (2_000, 900, False), (600, 590, True), (600, 400, False), (18, 18, False)],
)
def test_free_text_is_not_proposed_as_a_feature(rows, distinct, is_free):
    found = proposed(table(rows, note=pa.array([f"note {row % distinct}" for row in range(rows)])))
    assert found.excluded.get("note") == ("different in most rows" if is_free else None)


def test_a_column_that_arrives_with_the_label_is_not_proposed_as_a_feature():
    late = pa.array([row % 2 if row < 500 else None for row in range(600)])
    known_later = pa.array([row * 1.5 if row < 500 else None for row in range(600)])
    sometimes_null = pa.array([row * 1.5 if row % 3 else None for row in range(600)])
    some_later = pa.array([row * 1.5 if row < 500 and row % 3 else None for row in range(600)])
    found = proposed(table(late=late, refund=known_later, reason=some_later, discount=sometimes_null))
    assert found.excluded["refund"] == found.excluded["reason"] == "known only when the label is known"
    assert "discount" in found.features


def test_a_column_that_predicts_the_label_alone_is_asked_about_and_left_out_without_an_answer():
    chance = random.Random(1)
    late = [chance.random() < 0.3 for _ in range(600)]
    refund = pa.array([chance.uniform(1, 9) if value else 0.0 for value in late])
    state = pa.array(["returned" if value else chance.choice(["kept", "lost"]) for value in late])
    hint = pa.array([value ^ (chance.random() < 0.2) for value in late])
    found_in = table(late=pa.array(late), refund=refund, state=state, hint=hint)
    found = proposed(found_in)
    assert found.features == ["amount", "hint"]
    assert all("AUC 1.0000" in found.excluded[name] for name in ("refund", "state"))

    class Person(Silent):
        def confirm(self, question):
            return "'refund'" in question

    asked = propose(Sample(found_in, True, []), Given(label="late", label_delay=timedelta(0)), Person())
    assert (asked.features, asked.confirmed) == (["amount", "refund", "hint"], ["refund"])
    sample = Sample(found_in, True, [])
    chosen = Given(label="late", label_delay=timedelta(0), features=["refund", "hint"])
    assert propose(sample, chosen, Silent()).features == ["refund", "hint"]
    assert ["max_single_feature_score" in note for note in sample.notes] == [True]


def test_a_multiple_of_a_numeric_label_is_not_proposed_as_a_feature():
    chance = random.Random(1)
    price = [chance.lognormvariate(3, 1) for _ in range(600)]
    near = pa.array([value * chance.uniform(0.7, 1.3) for value in price])
    found = proposed(table(late=pa.array(price), gross=pa.array([value * 1.19 for value in price]), near=near))
    assert found.features == ["amount", "near"]
    assert "R² 1.0000" in found.excluded["gross"]


def test_the_training_set_accepts_a_feature_that_the_user_knows_in_time(tmp_path):
    found = dataclasses.replace(proposed(table()), confirmed=["amount"])
    files.write(tmp_path / "a", "orders", files.Place(["/data/a.csv"]), found, True, None)
    files.write(tmp_path / "b", "orders", files.Place(["/data/a.csv"]), proposed(table()), True, None)
    assert "max_single_feature_score=1.0" in (tmp_path / "a" / "orders.py").read_text()
    assert "max_single_feature_score" not in (tmp_path / "b" / "orders.py").read_text()


@pytest.mark.parametrize(
    ("late", "task", "positive"),
    [
        (["no", "yes"] * 300, "binary", "yes"),
        ([True, False] * 300, "binary", None),
        (["a", "b", "c"] * 200, "multiclass", None),
        ([f"{row % 30:03}" for row in range(600)], "multiclass", None),
        ([row * 1.5 for row in range(600)], "regression", None),
    ],
)
def test_the_task_is_that_of_the_training_set(late, task, positive):
    found = proposed(table(late=pa.array(late)))
    assert (found.task, found.positive) == (task, positive)


@pytest.mark.parametrize(
    ("late", "task", "classes"),
    [
        ([1.0, 2.0, None] * 200, "regression", "1, 2"),
        ([Decimal("1.0"), Decimal("3.0")] * 300, "regression", "1, 3"),
        ([Decimal(f"{row}.50") for row in range(600)], "regression", None),
        ([Decimal(1), Decimal(2), Decimal(3)] * 200, "multiclass", None),
        ([float(row) for row in range(600)], "regression", None),
        ([0.5, 1.0] * 300, "regression", None),
        ([0.0, 1.0, None] * 200, "binary", None),
        ([0.0, 1.0, float("nan")] * 200, "binary", None),
        ([1.0, 2.0, float("nan")] * 200, "regression", "1, 2"),
    ],
)
def test_numbers_that_may_be_classes_are_named(late, task, classes):
    sample = Sample(table(late=pa.array(late)), True, [])
    assert propose(sample, Given(label="late", label_delay=timedelta(0)), Silent()).task == task
    assert [f"numbers {classes}," in note for note in sample.notes] == ([True] if classes else [])


@pytest.mark.parametrize(
    ("late", "remedy"),
    [
        (["yes", "no", "n/a"] * 200, "--csv \"{'na_values': ['n/a']}\""),
        (["a", "b", "c"] * 200, None),
        ([row % 60 for row in range(600)], "--types \"{'late': 'string'}\""),
        ([row % 20 for row in range(600)], None),
        ([row % 300 for row in range(600)], None),
    ],
)
def test_a_label_that_may_be_misread_is_named_with_the_remedy(late, remedy):
    sample = Sample(table(late=pa.array(late)), True, [])
    propose(sample, Given(label="late", label_delay=timedelta(0)), Silent())
    assert [remedy in note for note in sample.notes] == [True] if remedy else not sample.notes


@pytest.mark.parametrize(
    ("unit", "remedy"),
    [("s", "timestamp[s, tz=UTC]"), ("ms", "timestamp[ms, tz=UTC]"), ("ns", "timestamp[ns, tz=UTC]")],
)
@pytest.mark.parametrize("time", [None, "at"])
def test_integers_that_count_the_time_since_1970_are_named_with_the_remedy(unit, remedy, time):
    at = table()["at"].cast(pa.timestamp(unit, "UTC")).cast(pa.int64())
    with pytest.raises(SpecError) as failure:
        proposed(table(at=at), time=time)
    assert f"--types \"{{'at': '{remedy}'}}\"" in str(failure.value)


@pytest.mark.parametrize("given_", [{}, {"time": "at"}])
def test_dates_that_are_not_in_iso_8601_are_named(given_):
    dates = pa.array([f"{row % 27 + 1:02d}.{row % 12 + 1:02d}.2024" for row in range(600)])
    with pytest.raises(SpecError, match=r"Column 'at' contains dates such as '01\.01\.2024'"):
        proposed(table(at=dates), **given_)


def test_a_few_texts_among_times_are_named_with_the_remedy():
    texts = [f"{START + timedelta(days=row):%Y-%m-%d}" if row % 5 else "0000-00-00" for row in range(600)]
    with pytest.raises(SpecError) as failure:
        proposed(table(at=pa.array(texts)))
    assert "--csv \"{'na_values': ['0000-00-00']}\"" in str(failure.value)
    with pytest.raises(SpecError) as failure:
        proposed(table(at=pa.array(["a", "b"] * 300)))
    assert "na_values" not in str(failure.value)


@pytest.mark.parametrize("odd", ["0001-01-01", "0999-12-31", "9999-12-31"])
@pytest.mark.parametrize("every", ["day", "week", "month"])
def test_times_outside_the_years_of_the_windows_are_refused(odd, every):
    at = [f"{START + timedelta(days=row):%Y-%m-%d}" for row in range(599)]
    with pytest.raises(SpecError, match=f"(?s)'at'.*{odd}"):
        proposed(table(at=pa.array([*at, odd])), every=every)


@pytest.mark.parametrize(("odd", "is_named"), [("1970-01-01", True), ("2099-12-31", True), ("2025-08-22", False)])
def test_times_far_from_the_others_are_named(odd, is_named):
    at = [f"{START + timedelta(days=row):%Y-%m-%d}" for row in range(599)]
    sample = Sample(table(at=pa.array([*at, odd])), True, [])
    propose(sample, Given(label="late", time="at", label_delay=timedelta(0)), Silent())
    assert [odd in note for note in sample.notes] == ([True] if is_named else [])


def test_invisible_characters_are_escaped_in_the_code(tmp_path):
    names = ["order_id", "at", "a\u202eb\U000e0001\x85größe", "late"]
    found = proposed(table().rename_columns(names))
    files.write(tmp_path, "orders", files.Place(["/data/a.csv"], options={"csv": {"sep": "\u00a0"}}), found, True, None)
    text = (tmp_path / "orders.py").read_text(encoding="utf-8")
    assert all(one.isprintable() or one == "\n" for one in text)
    assert "größe" in text


@pytest.mark.parametrize(
    ("late", "positive"), [(pa.array([0, 1] * 300), "0"), (pa.array([True, False] * 300), "False")]
)
def test_a_number_or_a_boolean_can_be_the_positive_class(late, positive):
    found = proposed(table(late=late), positive=positive)
    assert found.positive == positive


@pytest.mark.parametrize(
    ("columns", "given_", "message"),
    [
        ({"at": None}, {}, "ISO 8601"),
        ({"at": pa.array(["3/5/2024"] * 600)}, {}, "ISO 8601"),
        ({"at": pa.array(["2024"] * 600)}, {"time": "at"}, "ISO 8601"),
        ({}, {"label": "nothing"}, "no column 'nothing'"),
        ({}, {"keys": ["amount"]}, "do not identify a row"),
        ({}, {"keys": ["late"]}, "cannot identify"),
        ({"order_id": pa.array([{"id": row} for row in range(600)])}, {"keys": ["order_id"]}, "struct.*--keys"),
        ({"order_id": pa.array([None, None, *range(598)])}, {"keys": ["order_id"]}, "2 rows without a value.*order_id"),
        ({"late": pa.array([1] * 600)}, {}, "fewer than two"),
        ({"late": pa.array([[1]] * 600)}, {}, "fewer than two|has the type list"),
        (
            {"late": pa.array(["0", "1.5", "2.0", *(f"{row}.25" for row in range(597))])},
            {},
            "--types.*'late': 'float64'",
        ),
        ({}, {"positive": "yes", "label": "amount"}, "two classes"),
        ({"late": pa.array(["a", "b"] * 300)}, {"positive": "c"}, "a, b"),
        ({"late": pa.array([0, 1] * 300)}, {"positive": "yes"}, "0, 1"),
        ({"amount": None}, {}, "No column is left"),
        ({"order_id": None, "score": pa.array(range(600))}, {"keys": ["score"]}, "the column 'score'.*Rename"),
        ({}, {"features": ["amount", "late"]}, "remove late"),
        ({}, {"label": "at", "time": "at"}, "both the time and the label"),
    ],
)
def test_data_that_does_not_fit_is_refused(columns, given_, message):
    with pytest.raises(SpecError, match=message):
        proposed(table(**columns), **given_)


def test_keys_are_asked_for_if_no_column_is_named_like_an_id_or_rows_are_missing():
    with pytest.raises(SpecError, match="--keys"):
        proposed(table().rename_columns(["row", "at", "amount", "late"]))
    with pytest.raises(SpecError, match="--keys"):
        proposed(table(), complete=False)


def test_ids_stored_as_floating_point_numbers_are_among_the_proposed_keys():
    offered = []

    class Person(Silent):
        def choose_several(self, flag, question, options):
            offered.extend(options)
            return ["order_id"]

    found = table(order_id=pa.array([float(row) for row in range(600)]))
    answers = Given(label="late", label_delay=timedelta(0))
    assert propose(Sample(found, True, []), answers, Person()).keys == ["order_id"]
    assert offered == ["order_id", "at"]


@pytest.mark.parametrize(("rows", "every"), [(600, "month"), (60_000, "month")])
def test_windows_of_a_long_history_are_months(rows, every):
    assert proposed(table(rows)).every == every


def test_windows_are_shorter_for_a_short_history_with_many_rows():
    at = pa.array([START + timedelta(minutes=20 * row) for row in range(2_000)], pa.timestamp("us", "UTC"))
    assert proposed(table(2_000, at=at)).every == "week"
    at = pa.array([START + timedelta(seconds=row) for row in range(5_000)], pa.timestamp("us", "UTC"))
    assert proposed(table(5_000, at=at)).every == "day"


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ("day", ("2024-01-17", "2024-03-01")),
        ("week", ("2024-01-15", "2024-03-04")),
        ("month", ("2024-01-01", "2024-03-01")),
    ],
)
def test_a_backfill_has_all_windows(every, expected):
    first, last = datetime(2024, 1, 17, 15, tzinfo=timezone.utc), datetime(2024, 2, 29, 3, tzinfo=timezone.utc)
    found = schedules.bounds(every, first, last)
    assert tuple(f"{bound:%Y-%m-%d}" for bound in found) == expected
    assert all((bound.hour, bound.minute) == (0, 0) for bound in found)


@given(delay=st.integers(0, 400), day=st.dates(datetime(2020, 1, 1).date(), datetime(2030, 1, 1).date()))
def test_monitoring_starts_when_the_labels_are_known_and_processes_the_right_window(delay, day):
    from airflow.timetables.trigger import CronPartitionTimetable

    for every, length in (("day", 1), ("week", 7), ("month", 31)):
        schedule = schedules.monitoring(every, delay)
        timetable = CronPartitionTimetable(
            schedule.cron, timezone="UTC", run_offset=schedule.offset, key_format=schedules.KEY_FORMATS[every]
        )
        run = timetable._get_next(timetable._align_to_next(datetime(day.year, day.month, day.day, tzinfo=timezone.utc)))
        partition = timetable._get_partition_date(run_date=run)
        start = {
            "day": partition,
            "week": partition - timedelta(days=partition.weekday()),
            "month": partition.replace(day=1),
        }[every].replace(hour=0, minute=0)
        end = start + timedelta(days=length) if every != "month" else (start + timedelta(days=31)).replace(day=1)
        assert run - end >= timedelta(days=delay)
        assert run - end <= timedelta(days=delay + 62)


def test_a_suite_accepts_the_sample_and_refuses_what_is_missing():
    rules = {rule["type"]: rule["kwargs"] for rule in suite.propose("orders", proposed(table()), True)["expectations"]}
    assert rules["expect_table_row_count_to_be_between"]["min_value"] == 7
    assert rules["expect_column_values_to_be_unique"] == {"column": "order_id"}
    assert rules["expect_column_values_to_be_between"]["min_value"] == 0


def test_the_bounds_of_a_suite_are_finite():
    amount = pa.array([float("inf"), float("-inf"), float("nan"), *[1.5, 1e308, -1e308] * 199])
    found = suite.propose("orders", proposed(table(amount=amount), features=["amount"]), True)
    json.dumps(found, allow_nan=False)
    rules = {rule["type"]: rule["kwargs"] for rule in found["expectations"]}
    assert rules["expect_column_values_to_be_between"]["max_value"] == sys.float_info.max
    infinite = table(amount=pa.array([float("inf"), float("inf"), float("-inf")] * 200))
    types = [
        rule["type"] for rule in suite.propose("orders", proposed(infinite, features=["amount"]), True)["expectations"]
    ]
    assert "expect_column_values_to_be_between" not in types


@pytest.mark.parametrize(
    ("odd", "count", "rule"),
    [
        (float("nan"), 1, "expect_column_values_to_not_be_null"),
        (float("inf"), 60, "expect_column_values_to_be_between"),
        (float("-inf"), 3, None),
    ],
)
def test_a_suite_has_no_expectation_that_its_sample_does_not_meet(odd, count, rule):
    amount = pa.array([odd] * count + [float(row % 7) for row in range(600 - count)])
    found = suite.propose("orders", proposed(table(amount=amount), features=["amount"]), True)["expectations"]
    about = {item["type"] for item in found if item["kwargs"].get("column") == "amount"}
    both = {"expect_column_values_to_not_be_null", "expect_column_values_to_be_between"}
    assert about == both - {rule}


@pytest.mark.parametrize(
    "values",
    [
        [2**62, 2**62 + 4, 2**62 + 300],
        [-(2**62) - 4, -(2**62), -5],
        [2**63 - 1, 2**63 - 2, 2**63 - 3],
        [Decimal("12345678901234567890.12"), Decimal("12345678901234567890.14"), Decimal("12345678901234567890.13")],
    ],
)
def test_the_bounds_of_large_numbers_include_the_sample(values):
    found = suite.propose("orders", proposed(table(amount=pa.array(values * 200)), features=["amount"]), True)
    (rule,) = (item for item in found["expectations"] if item["type"] == "expect_column_values_to_be_between")
    assert all(rule["kwargs"]["min_value"] <= value <= rule["kwargs"]["max_value"] for value in values)


@pytest.mark.parametrize(
    ("one", "other"), [("yes", "yes "), ("Yes", "yes"), (" no", "NO"), ("Caf\u00e9", "cafe\u0301")]
)
def test_texts_that_differ_only_by_blanks_case_or_unicode_form_are_named(one, other):
    texts = pa.array([one, other, "x"] * 200)
    with pytest.raises(SpecError, match="differ only by blanks, letter case or Unicode form"):
        proposed(table(late=texts))
    sample = Sample(table(kind=texts, other=pa.array(["a", "b", "c"] * 200)), True, [])
    propose(sample, Given(label="late", label_delay=timedelta(0)), Silent())
    assert [note for note in sample.notes if "differ only" in note and f"{one!r} and {other!r}" in note]
    assert not [note for note in sample.notes if "'other'" in note]


@pytest.mark.parametrize("texts", [["True", "False", "1", "0"], ["yes", "Y", "no"]])
def test_several_spellings_of_yes_and_no_are_not_classes(texts):
    with pytest.raises(SpecError, match=f"all mean yes or no, but would be {len(texts)} different classes"):
        proposed(table(late=pa.array([texts[row % len(texts)] for row in range(600)])))
    assert proposed(table(late=pa.array([["y", "n", "maybe"][row % 3] for row in range(600)]))).task == "multiclass"


def test_texts_and_names_that_look_the_same_are_told_apart():
    found = table(kind=pa.array(["\u00e9", "e\u0301", "x"] * 200))
    for name in ("\u00fc", "u\u0308"):
        found = found.append_column(name, pa.array([1] * 600))
    sample = Sample(found, True, [])
    propose(sample, Given(label="late", label_delay=timedelta(0)), Silent())
    values, names = sample.notes
    assert r"'\xe9' and 'e\u0301'" in values
    assert r"'\xfc' and 'u\u0308' look the same" in names


def test_a_number_that_counts_the_rows_is_not_a_feature():
    count = [row + row // 50 for row in range(600)]
    backwards = [-number if number % 9 else None for number in count]
    found = proposed(table(count=count, backwards=backwards, shuffled=[number * 7919 % 601 for number in count]))
    assert found.features == ["amount", "shuffled"]
    assert all("counts the rows" in found.excluded[name] for name in ("count", "backwards"))
    # With times of the same day, the order of the rows is not known.
    same_day = pa.array([START + timedelta(days=row // 100) for row in range(600)], pa.timestamp("us", "UTC"))
    assert "shuffled" in proposed(table(at=same_day, shuffled=[row * 7919 % 601 for row in range(600)])).features
    assert proposed(table(count=count), features=["count"]).features == ["count"]


def test_numbers_that_are_text_are_no_feature_and_the_way_to_read_them_is_said():
    numbers = [f"{row * 0.25:.2f}" for row in range(599)] + ["2"]
    sample = Sample(table(amount=numbers), True, ["Column 'amount' is kept as text."])
    with pytest.raises(SpecError, match=r"--types \"\{'amount': 'float64'\}\".* is kept as text"):
        propose(sample, Given(label="late", label_delay=timedelta(0)), Silent())


def is_constant(text: str) -> bool:
    """Return whether Airflow leaves a text of a templated parameter as it is."""
    try:
        return Environment().from_string(text).render() == text
    except TemplateError:
        return False


@pytest.mark.parametrize(
    ("where", "name", "is_written"),
    [
        *(("feature", name, True) for name in ('it"s', "{x}", "}} {", "line\nbreak", "back\\slash", "${x}")),
        *(("feature", name, False) for name in ("{{ x }}", "{{", "{% raw %}", "{# x #}", "a\rb", "a\r\nb", "end\n")),
        *((where, "{{ x }}", False) for where in ("key", "time", "label", "class", "file", "csv")),
        ("excluded", "{{ x }}", True),
    ],
)
def test_names_that_airflow_would_render_are_refused(where, name, is_written, tmp_path):
    columns = {"key": "order_id", "time": "at", "feature": "amount", "label": "late", "excluded": "sort"}
    late = pa.array([name if where == "class" else "yes", "no"] * 300)
    names = {column: name if role == where else column for role, column in columns.items()}
    rows = table(late=late, sort=["a", "b"] * 300)
    given_ = {
        "positive": late[0].as_py(),
        "exclude": [names["sort"]],
        "label": names["late"],
        "keys": [names["order_id"]],
    }
    found = proposed(rows.rename_columns([names[column] for column in rows.column_names]), **given_)
    file = name if where == "file" else "a"
    place = files.Place([f"/data/{file}"], options={"csv": {"na_values": [name]}} if where == "csv" else {})
    if is_written:
        files.write(tmp_path / "new", "orders", place, found, True, None)
        ast.parse((tmp_path / "new" / "orders.py").read_text(encoding="utf-8"))
        return
    with pytest.raises(SpecError, match="template"):
        files.write(tmp_path / "new", "orders", place, found, True, None)
    assert not (tmp_path / "new").exists()


@given(name=NAMES, positive=NAMES)
def test_names_of_any_kind_are_only_text_in_the_files(name, positive, tmp_path_factory):
    labels = pa.array([positive, positive + "'"] * 300)
    renamed = table(late=labels).rename_columns(["order_id", "at", f"x{name}", "late"])
    found = proposed(renamed, exclude=[], positive=positive)
    folder = tmp_path_factory.mktemp("scaffold")
    place = files.Place([f"/data/{name}.csv"])
    if not (is_constant(f"x{name}") and is_constant(positive)):
        with pytest.raises(SpecError, match="template"):
            files.write(folder, "orders", place, found, True, None)
        assert list(folder.iterdir()) == []
        return
    files.write(folder, "orders", place, found, True, None)
    tree = ast.parse((folder / "orders.py").read_text(encoding="utf-8"))
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id in ("FEATURES", "SOURCE", "KEYS")
    }
    assert values == {
        "KEYS": ["order_id"],
        "FEATURES": [f"x{name}"],
        "SOURCE": {"files": [f"/data/{name}.csv"], "time_column": "at"},
    }


@pytest.mark.parametrize(
    ("table_", "kind", "query"),
    [
        ("orders", "postgres", "SELECT * FROM orders WHERE at >= :start AND at < :end ORDER BY id"),
        ("sales.Orders", "postgres", 'SELECT * FROM sales."Orders" WHERE at >= :start AND at < :end ORDER BY id'),
        ("Orders", "mysql", "SELECT * FROM `Orders` WHERE at >= :start AND at < :end ORDER BY id"),
        *(
            (table_, kind, f"SELECT * FROM {quoted} WHERE at >= :start AND at < :end ORDER BY id")
            for table_, kind, quoted in (
                ("order items", "postgres", '"order items"'),
                ("my shop.order items", "sqlite", '"my shop"."order items"'),
                ('sales."order.items"', "postgres", 'sales."order.items"'),
                ('"a""b; --"', "postgres", '"a""b; --"'),
                ("`a``b`.c", "mysql", "`a``b`.c"),
                ('"a`b".c', "mysql", "`a``b`.c"),
                ("[dbo].[Order]]Items]", "mssql", '"dbo"."Order]Items"'),
                # Oracle and Snowflake convert names without quotes to upper case.
                ('"orders"', "snowflake", '"orders"'),
            )
        ),
    ],
)
def test_names_of_tables_are_quoted_where_a_database_would_change_them(table_, kind, query):
    assert of_table(table_, kind).of_window("at", ["id"]) == query


@pytest.mark.parametrize("name", ["order", "index", "values", "returning", "rank", "key"])
def test_columns_with_the_name_of_a_keyword_of_any_database_are_quoted(name):
    """pandas writes the column ``index`` into a table."""
    query = of_table("visits", "sqlite").of_window("at", [name])
    with sqlite3.connect(":memory:") as database:
        database.execute(f'CREATE TABLE visits (at TEXT, "{name}" INT)')
        database.execute(query, {"start": "2024", "end": "2025"})
    assert of_table("visits", "mysql").of_window("at", [name]).endswith(f"ORDER BY `{name}`")


@pytest.mark.parametrize(
    "table_", ["", " ", "a;b", "orders; DROP TABLE x", "a.b.c.d", "a.", ".a", 'a"b', '"a', '""', '"a"b', "a\nb"]
)
def test_an_invalid_table_name_is_refused(table_):
    with pytest.raises(SpecError, match="not the name of a table"):
        of_table(table_, "postgres")


def test_a_table_whose_name_is_a_jinja_template_is_refused():
    with pytest.raises(SpecError, match="Jinja"):
        of_table("{{ ds }}", "postgres")


def test_names_that_are_words_of_sql_are_quoted():
    assert of_table("user", "postgres").of_window("at", ["order"]).endswith('ORDER BY "order"')
    assert of_table("user", "mysql").select == "SELECT * FROM `user`"


def test_the_suite_accepts_a_first_window_of_few_rows():
    # Midnight of 1 February in Berlin is in January in UTC.
    at = [datetime(2024, 1, 31, 23, tzinfo=timezone.utc) + timedelta(days=row // 5) for row in range(600)]
    for name, fewest in (("UTC", 5), ("Europe/Berlin", 37)):
        found = proposed(table(at=pa.array(at, pa.timestamp("us", "UTC"))), timezone=name)
        rules = suite.propose("shop", found, True)["expectations"]
        (floor,) = (rule["kwargs"]["min_value"] for rule in rules if "row_count" in rule["type"])
        assert floor == fewest


def test_times_with_an_offset_are_named_because_the_windows_are_in_utc():
    at = [f"{START + timedelta(days=row):%Y-%m-%d} 00:00:00" for row in range(600)]
    for suffix, expected in (("+01:00", ["+01:00"]), ("-0500", ["-0500"]), ("Z", []), ("+00:00", []), ("", [])):
        sample = Sample(table(at=pa.array([text + suffix for text in at])), True, [])
        propose(sample, Given(label="late", label_delay=timedelta(0)), Silent())
        assert [note.split("such as ")[1].split(",")[0] for note in sample.notes if "offsets" in note] == expected


@pytest.mark.parametrize(
    ("at", "zone", "first"),
    [
        # The last hour of a UTC month is in the next month in Berlin, and the first hour is in the previous month in New York.
        (pa.array([datetime(2024, 1, 31, 23, 30), datetime(2024, 3, 5)], pa.timestamp("us", "UTC")), "Europe/Berlin", "2024-02"),
        (pa.array([datetime(2024, 2, 1, 0, 30), datetime(2024, 3, 5)], pa.timestamp("us", "UTC")), "America/New_York", "2024-01"),
        # Dates are days in the time zone.
        (pa.array([datetime(2024, 2, 1).date(), datetime(2024, 3, 5).date()]), "America/New_York", "2024-02"),
        (pa.array(["2024-02-01", "2024-03-05"]), "America/New_York", "2024-02"),
        (pa.array(["2024-02-01T00:30:00Z", "2024-03-05"]), "America/New_York", "2024-01"),
    ],
)  # fmt: skip
def test_windows_are_those_of_the_time_zone(at, zone, first):
    rows = pa.chunked_array([at.take(pa.array([0] * 300 + [1] * 300))])
    found = proposed(table(at=rows), every="month", timezone=zone)
    assert (schedules.key("month", found.first), schedules.key("month", found.last)) == (first, "2024-03")
    begin, _ = schedules.bounds("month", found.first, found.last)
    assert begin.isoformat()[:16] == f"{first}-01T00:00"
    assert begin.utcoffset() == found.first.utcoffset() != timedelta(0)


@pytest.mark.parametrize(
    ("at", "is_named"),
    [
        (["2024-01-01 10:00:00", "2024-03-01 10:00:00Z"], True),
        (["2024-01-01T10:00:00+01:00", "2024-03-01T10:00:00Z"], False),
        (["2024-01-01", "2024-03-01"], False),
        (pa.array([datetime(2024, 1, 1), datetime(2024, 3, 1)], pa.timestamp("us")), True),
        (pa.array([datetime(2024, 1, 1), datetime(2024, 3, 1)], pa.timestamp("us", "UTC")), False),
    ],
)
def test_times_without_a_time_zone_are_named_where_the_windows_have_one(at, is_named):
    rows = pa.array(at).take(pa.array([0, 1] * 300))
    for name in ("UTC", "Europe/Berlin"):
        sample = Sample(table(at=rows), True, [])
        propose(sample, Given(label="late", label_delay=timedelta(0), timezone=name), Silent())
        remedies = [note for note in sample.notes if "'at': 'timestamp[us, tz=Europe/Berlin]'" in note]
        assert bool(remedies) == (is_named and name != "UTC")


@pytest.mark.parametrize("name", ["Europe/Berlon", "+02:00", "", "../etc"])
def test_an_invalid_time_zone_is_refused(name):
    with pytest.raises(SpecError, match="--timezone"):
        proposed(table(), timezone=name)


@pytest.mark.parametrize(
    ("late", "positive"), [(["Yes", "No"], "Yes"), (["t", "f"], "t"), (["bad", "good"], None), (["yes", "true"], None)]
)
def test_the_positive_class_of_two_texts_is_asked_for_unless_its_name_is_usual(late, positive):
    person = Silent()
    found = Sample(table(late=pa.array(late * 300)), True, [])
    given_ = Given(label="late", label_delay=timedelta(0))
    if positive:
        assert propose(found, given_, person).positive == positive
    else:
        with pytest.raises(SpecError, match="--positive"):
            propose(found, given_, person)
        assert propose(found, dataclasses.replace(given_, positive=late[0]), person).positive == late[0]


def test_columns_whose_names_differ_only_by_case_have_no_expectations():
    sample = Sample(table(Amount=pa.array([row % 5 for row in range(600)])), True, [])
    found = propose(sample, Given(label="late", label_delay=timedelta(0)), Silent())
    assert [note for note in sample.notes if "'amount', 'Amount'" in note]
    named = [rule["kwargs"].get("column") for rule in suite.propose("orders", found, True)["expectations"]]
    assert {"amount", "Amount"}.isdisjoint(named)
    assert "order_id" in named
