"""``airflow mlops datasets`` in a real Airflow: listing, showing and withdrawing windows."""

from __future__ import annotations

import json

import pytest

from airflow_mlops.core.errors import DatasetNotFoundError
from airflow_mlops.core.references import DatasetSelection
from airflow_mlops.core.windows import Window
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.data.selection import select
from tests.integration.cli.test_cli import airflow  # noqa: F401 - a fixture
from tests.support.predictions import model_in_memory, score_rows
from tests.support.predictions import rows as rows_of
from tests.unit.data.test_selection import put

JANUARY = DatasetSelection(name="rows", window=Window.model_validate("2013-01"))


def rows(airflow, capsys, *words):  # noqa: F811
    airflow("datasets", *words, "--output", "json")
    return json.loads(capsys.readouterr().out)


def test_names_and_windows_are_listed(airflow, store, capsys):  # noqa: F811
    put(store, "2013-01", "month")
    put(store, "2013-01-10", "day")
    put(store, None, name="customers")
    found = rows(airflow, capsys)
    assert [(row["name"], row["windows"], row["snapshots"]) for row in found] == [
        ("customers", "0", "1"),
        ("rows", "2", "0"),
    ]
    found = rows(airflow, capsys, "rows")
    assert [(row["window"], row["rows"], row["state"]) for row in found] == [
        ("2013-01", "31", "partly replaced"), ("2013-01-10", "1", "current"),
    ]  # fmt: skip


def test_a_window_is_shown_and_withdrawn(airflow, store, capsys):  # noqa: F811
    manifest = put(store, "2013-01", "wrong")
    airflow("datasets", "rows", "--show", "2013-01")
    assert json.loads(capsys.readouterr().out)["id"] == manifest.id
    airflow("datasets", "rows", "--withdraw", "2013-01", "--reason", "The clock was wrong.")
    assert "2013-01" in capsys.readouterr().out
    with pytest.raises(DatasetNotFoundError):
        select(store, JANUARY)
    (row,) = rows(airflow, capsys, "rows")
    assert row["state"] == "withdrawn"
    assert row["withdrawn"].endswith(": The clock was wrong.")
    # A withdrawn window can be shown, but cannot be withdrawn a second time.
    airflow("datasets", "rows", "--show", manifest.id)
    assert json.loads(capsys.readouterr().out)["id"] == manifest.id
    with pytest.raises(SystemExit, match="2013-01"):
        airflow("datasets", "rows", "--withdraw", "2013-01", "--reason", "Again.")


def test_the_command_says_that_the_prediction_log_still_contains_the_withdrawn_rows(airflow, store, capsys):  # noqa: F811
    made = score_rows(store, model_in_memory(), 1, "2013-01", rows_of(0, 1, 2))
    name = made.name
    airflow("datasets", name, "--withdraw", "2013-01", "--reason", "The clock was wrong.")
    assert "The prediction log still contains it until the window is scored again" in capsys.readouterr().out
    assert [item.id for item in PredictionLog(store, "delays", name).entries()] == [made.id]
    put(store, "2013-01")
    airflow("datasets", "rows", "--withdraw", "2013-01", "--reason", "The clock was wrong.")
    assert "prediction log" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nothing",), "no dataset 'nothing'"),
        (("rows", "--show", "2014"), "'2014'"),
        (("rows", "--withdraw", "2013-01"), "--reason"),
        (("--withdraw", "2013-01", "--reason", "x"), "name"),
    ],
)
def test_mistakes_are_errors(airflow, store, words, says):  # noqa: F811
    put(store, "2013-01")
    with pytest.raises(SystemExit, match=says):
        airflow("datasets", *words)
    assert len(select(store, JANUARY)) == 1


def test_a_server_whose_spool_is_lost_is_reported_once(airflow, store, capsys):  # noqa: F811
    key = "online-servers/m/aa.json"
    record = {"where": "host:/spool", "since": "2026-03-01T05:00:00Z", "until": "2026-03-01T05:00:00Z"}
    store.write_json(key, record)
    airflow("servers", "m", "--output", "json")
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["server"], row["machine_and_spool"], row["state"]) == ("aa", "host:/spool", "open")
    with pytest.raises(SystemExit) as ended:
        airflow("servers", "m", "--lost", "bb")
    assert "--lost: model 'm'" in str(ended.value.code)
    airflow("servers", "m", "--lost", "aa")
    found = store.read_json(key)
    assert found["ended"]
    assert found["incomplete"]
    with pytest.raises(SystemExit):
        airflow("servers", "m", "--lost", "aa")
