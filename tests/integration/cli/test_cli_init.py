"""``airflow mlops init``: questions at a terminal, arguments in a script, and tables.
tests/integration/live/test_live_init.py runs the DAGs.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys

import pytest
from airflow.dag_processing.dagbag import DagBag

from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.ingest import step as ingest
from airflow_mlops.stages.ingest.spec import IngestSpec

ROWS = [
    (f"A{number}", f"2024-0{number % 6 + 1}-{number % 27 + 1:02d}", number % 9, number % 2) for number in range(400)
]


@pytest.fixture
def init(airflow_db, tmp_path, monkeypatch):
    """``init("orders", "--files", ...)`` runs the command in an empty folder."""
    from airflow.cli.cli_parser import get_parser

    monkeypatch.chdir(tmp_path)

    def run(*words):
        args = get_parser().parse_args(["mlops", "init", *map(str, words)])
        args.func(args)

    return run


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "orders.csv"
    path.write_text("order_id,at,items,late\n" + "\n".join(",".join(map(str, row)) for row in ROWS))
    return path


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A database with the rows in three tables, two of which have times in other forms."""
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("CREATE TABLE orders (order_id TEXT, at TEXT, items INT, late INT)")
        database.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", ROWS)
        database.execute(
            "CREATE TABLE odd AS SELECT order_id, replace(at, '-', '') || 'T120000Z' AS at, items, late FROM orders"
        )
        database.execute(
            "CREATE TABLE offsets AS SELECT order_id, at || 'T00:30:00+01:00' AS at, items, late FROM orders"
        )
    connection = {"conn_type": "sqlite", "host": str(tmp_path / "shop.db")}
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(connection))


def dags(folder):
    bag = DagBag(folder, bundle_path=folder, bundle_name="init")
    assert not bag.import_errors
    return bag.dags


def test_a_question_is_repeated_until_the_answer_is_valid(init, file, tmp_path, monkeypatch, capsys):
    answers = iter(["lateness", "late", "soon", "30D"])
    questions = []

    def answer(question):
        questions.append(question)
        return next(answers)

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", answer)
    init("orders", "--files", file)
    assert len(questions) == 4
    assert next(answers, None) is None
    # The labels of a month are known two months later.
    timetable = dags(tmp_path / "orders")["orders_monitor"].timetable
    assert (timetable._run_offset if hasattr(timetable, "_run_offset") else timetable.run_offset) == -2
    assert "soon" in capsys.readouterr().out


def test_without_a_terminal_missing_facts_are_an_error_and_nothing_is_written(init, file, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(SystemExit, match="--label"):
        init("orders", "--files", file)
    assert not (tmp_path / "orders").exists()
    init("orders", "--files", file, "--label", "late", "--label-delay", "0", "--ci", "gitlab")
    assert set(dags(tmp_path / "orders")) == {"orders_ingest", "orders_score", "orders_monitor", "orders_train"}
    assert (tmp_path / "orders" / ".gitlab-ci.yml").exists()
    before = (tmp_path / "orders" / "orders.py").read_text()
    with pytest.raises(SystemExit, match="--folder"):
        init("orders", "--files", file, "--label", "items", "--label-delay", "0")
    assert (tmp_path / "orders" / "orders.py").read_text() == before


def test_a_table_is_read_by_window(init, shop, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    said = ["--label", "late", "--label-delay", "0", "--conn-id", "shop"]
    init("orders", *said, "--table", "orders")
    sql = "SELECT * FROM orders WHERE at >= :start AND at < :end ORDER BY order_id"
    assert dags(tmp_path / "orders")["orders_ingest"].get_task("ingest").sql == sql
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("""CREATE TABLE "order's ""items"".v2" AS SELECT * FROM orders""")
    init("items", *said, "--table", """main."order's ""items"".v2" """.strip())
    sql = sql.replace("FROM orders", """FROM main."order's ""items"".v2" """.strip())
    assert dags(tmp_path / "items")["items_ingest"].get_task("ingest").sql == sql
    with pytest.raises(SystemExit, match="0 of 400 rows"):
        init("odd", *said, "--table", "odd")
    # In UTC, a row of the first day of a month is in the month before. A text comparison finds it in its own month.
    with pytest.raises(SystemExit, match="67 of 74 rows"):
        init("odd", *said, "--table", "offsets")
    assert not (tmp_path / "odd").exists()


@pytest.mark.parametrize("label", [("late", "0"), ("items", "30D")])
def test_the_files_pass_the_lint_of_the_ci_pipeline(label, init, file, tmp_path):
    name, delay = label
    init("orders", "--files", file, "--label", name, "--label-delay", delay, "--ci", "github")
    pipeline = (tmp_path / "orders" / ".github" / "workflows" / "dags.yml").read_text()
    assert "ruff check ." in pipeline
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "."]
    done = subprocess.run(command, cwd=tmp_path / "orders", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Orders", "--files", "x.csv"], "lower-case"),
        (["orders"], "--files"),
        (["orders", "--files", "x.csv", "--table", "t", "--conn-id", "shop"], "--files"),
        (["orders", "--table", "t"], "--conn-id"),
        (["orders", "--files", "absent.csv"], "absent.csv"),
        (["orders", "--table", "a;b", "--conn-id", "shop"], "SCHEMA.TABLE"),
        (["orders", "--table", "orders", "--conn-id", "shop", "--label-delay", "99999999999D"], "not a duration"),
    ],
)
def test_invalid_arguments_are_refused(words, message, init, shop):
    with pytest.raises(SystemExit, match=message):
        init(*words)


EUROPEAN = "order_id;at;zip;items;late\n" + "\n".join(
    f"{order};{at};0{number % 9}1;{items},5;{late}" for number, (order, at, items, late) in enumerate(ROWS)
)


def test_the_options_that_a_note_suggests_are_accepted(init, tmp_path, capsys):
    rows = [f"{order},{at},{items if items else 'n/a'},{late}" for order, at, items, late in ROWS]
    (tmp_path / "orders.csv").write_text("\n".join(["order_id,at,items,late", *rows]))
    words = (
        "orders",
        "--files",
        tmp_path / "orders.csv",
        "--label",
        "late",
        "--label-delay",
        "0",
        "--features",
        "items",
    )
    init(*words)
    assert "--csv \"{'na_values': ['n/a']}\"" in capsys.readouterr().out


def test_the_options_that_an_error_suggests_are_accepted_and_are_in_the_dags(init, tmp_path, airflow_db):
    (tmp_path / "orders.csv").write_text(EUROPEAN)
    words = ("orders", "--files", tmp_path / "orders.csv", "--label", "late", "--label-delay", "0")
    with pytest.raises(SystemExit) as failure:
        init(*words)
    # The error gives the argument in a form that can be copied into a shell.
    assert "--csv \"{'sep': ';'}\"" in str(failure.value)
    init(*words, "--csv", "{'sep': ';', 'decimal': ','}", "--types", '{"zip": "string"}')
    ingest = dags(tmp_path / "orders")["orders_ingest"].get_task("ingest")
    assert ingest.csv == {"sep": ";", "decimal": ","}
    assert ingest.types == {"zip": "string"}
    suite = (tmp_path / "orders" / "suites" / "orders.json").read_text()
    assert '"items"' in suite


def test_a_window_that_does_not_show_the_type_of_a_column_is_ingested_with_this_type(init, tmp_path, store):
    weights = [f"{number % 50 + 10}{'.5' if at >= '2024-06-20' else ''}" for number, (_, at, *_) in enumerate(ROWS)]
    (tmp_path / "orders.csv").write_text(
        "order_id,at,items,late,weight\n"
        + "\n".join(f"{','.join(map(str, row))},{weight}" for row, weight in zip(ROWS, weights, strict=True))
    )
    init("orders", "--files", tmp_path / "orders.csv", "--label", "late", "--label-delay", "0", "--every", "month")
    task = dags(tmp_path / "orders")["orders_ingest"].get_task("ingest")
    for window in ("2024-01", "2024-06"):
        spec = IngestSpec(
            name="rows", window=window, files=task.files, time_column=task.time_column, types=task.types or {}
        )
        found = open_dataset(store, ingest.run(spec, StepContext(store)).dataset).table()
        assert str(found["weight"].type) == "double"


def test_the_option_suggested_for_tabs_is_accepted(init, tmp_path):
    (tmp_path / "orders.csv").write_text(
        "order_id\tat\titems\tlate\n" + "\n".join("\t".join(map(str, row)) for row in ROWS)
    )
    words = ("orders", "--files", tmp_path / "orders.csv", "--label", "late", "--label-delay", "0")
    with pytest.raises(SystemExit) as failure:
        init(*words)
    _, _, remedy = str(failure.value).partition('--csv "')
    init(*words, "--csv", remedy.partition('"')[0])
    assert dags(tmp_path / "orders")["orders_ingest"].get_task("ingest").csv == {"sep": "\t"}


@pytest.mark.parametrize(
    "words", [("--csv", "a"), ("--types", "[1]"), ("--csv", "{'sepa': ';'}"), ("--types", "{'zip': 'nothing'}")]
)
def test_options_of_the_source_that_cannot_be_read_are_refused(words, init, file, tmp_path):
    with pytest.raises(SystemExit, match=words[0]):
        init("orders", "--files", file, *words)
    assert not (tmp_path / "orders").exists()


def test_options_of_csv_files_need_files(init, shop):
    with pytest.raises(SystemExit, match="needs --files"):
        init("orders", "--conn-id", "shop", "--table", "orders", "--csv", "{'sep': ';'}")


def test_the_dates_of_the_rows_are_those_of_the_windows(init, tmp_path, capsys):
    rows = "\n".join(f"{order},{at}T00:30:00+01:00,{items},{late}" for order, at, items, late in ROWS)
    (tmp_path / "orders.csv").write_text("order_id,at,items,late\n" + rows)
    init("orders", "--files", tmp_path / "orders.csv", "--label", "late", "--label-delay", "0")
    # Half past midnight of 1 January in Berlin is in the window of December.
    assert "from 2023-12-31 to 2024-06-26 (UTC)" in capsys.readouterr().out
    assert "+01:00" not in (tmp_path / "orders" / "orders.py").read_text()


def test_the_windows_are_in_the_given_time_zone(init, file, tmp_path, capsys):
    init("orders", "--files", file, "--label", "late", "--label-delay", "0", "--timezone", "Europe/Berlin")
    found = dags(tmp_path / "orders")
    assert {str(found[name].timetable.timezone) for name in ("orders_ingest", "orders_monitor")} == {"Europe/Berlin"}
    # A run that is triggered by hand has no timetable with a time zone.
    assert str(found["orders_train"].timezone) == "Europe/Berlin"
    assert "(Europe/Berlin)" in capsys.readouterr().out
    readme = (tmp_path / "orders" / "README.md").read_text()
    assert "--from-date 2024-01-01T00:00+01:00 --to-date 2024-06-30T23:59+02:00" in readme


def test_a_person_can_keep_a_column_that_predicts_the_label_alone(init, tmp_path, monkeypatch, capsys):
    (tmp_path / "orders.csv").write_text(
        "order_id,at,items,late,state\n"
        + "\n".join(f"{','.join(map(str, row))},{'no' if row[3] else 'ok'}" for row in ROWS)
    )
    words = "orders", "--files", tmp_path / "orders.csv", "--label", "late", "--label-delay", "0"
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    init(*words, "--folder", "alone")
    assert "Not a feature: state (alone predicts the label" in capsys.readouterr().out
    answers = iter(["maybe", "yes"])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    init(*words, "--folder", "asked")
    assert next(answers, None) is None
    task = dags(tmp_path / "asked")["orders_train"].get_task("training_set")
    assert task.max_single_feature_score == 1.0
    assert "state" in task.columns
