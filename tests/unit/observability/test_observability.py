"""Exported metrics, and that the alerts and the dashboard use exported metrics only."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from airflow_mlops.metrics import quantiles
from airflow_mlops.metrics.catalog import COVERAGE, REALISED, find_metric
from airflow_mlops.observability.export import export
from airflow_mlops.observability.samples import METRICS, Sample, decided, monitored, scored
from airflow_mlops.operators import MonitorOperator, PromoteOperator, RollbackOperator, ScoreOperator
from tests.support.observed import (
    ALERTS,
    DASHBOARD,
    FOLDER,
    alerts,
    dashboard,
    groups,
    monitor_result,
    performance,
    promote_result,
    rollback_result,
    score_result,
)

log = logging.getLogger(__name__)


def promtool(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("PROMTOOL IS NOT INSTALLED (apt-get install prometheus): rules and metrics are not checked by it")
    command = [program, *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__MLOPS__PROMETHEUS_TEXTFILE", str(tmp_path))
    return tmp_path


def values(samples: list[Sample]) -> dict[tuple[str, ...], float]:
    """The value of each series, by metric and labels other than model and version."""
    return {
        (metric.name, *(text for name, text in labels.items() if name not in ("model", "version"))): value
        for metric, value, labels in samples
    }


def read(file: Path) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(file.read_text())
    return {(item.name, *sorted(item.labels.values())): item.value for family in families for item in family.samples}


def test_every_metric_is_exported_by_its_group_and_with_its_labels():
    samples = groups()
    for group, found in samples.items():
        assert {metric.group for metric, *_ in found} == {group}
        assert all(set(labels) == set(metric.labels) for metric, _, labels in found)
        assert len({(metric.name, *labels.values()) for metric, _, labels in found}) == len(found)
    assert {metric for found in samples.values() for metric, *_ in found} == set(METRICS.values())


def test_a_check_exports_its_findings():
    found = values(monitored(monitor_result("watch")))
    assert [found["mlops.monitor.decision", decision] for decision in ("healthy", "watch", "retrain")] == [0, 1, 0]
    assert found["mlops.monitor.labelled_rows",] == 1_500
    assert found["mlops.monitor.performance", "roc_auc", "realised"] == 0.85
    assert found["mlops.monitor.performance_low", "roc_auc", "estimated"] == pytest.approx(0.84)
    assert found["mlops.monitor.performance_reference", "roc_auc", "realised"] == 0.86
    assert found["mlops.monitor.label_delay_seconds", "90"] == 2.5 * 86_400
    assert found["mlops.monitor.window_end_timestamp_seconds",] == 1_367_366_400  # 2013-05-01
    assert found["mlops.monitor.newest_row_timestamp_seconds",] == 1_367_366_400 - 129_600
    # The label is the version that made the predictions, not the current champion.
    assert {labels["version"] for *_, labels in monitored(monitor_result())} == {"3"}


def test_metrics_with_parameters_are_exported_by_their_name():
    measured = {"tweedie_deviance_p1.5": 2.0, "tweedie_deviance_p1.5_low": 1.5, "poisson_deviance": 1.0}
    found = values(monitored({**monitor_result(), "metrics": measured}))
    assert found["mlops.monitor.performance", "tweedie_deviance_p1.5", "realised"] == 2
    assert found["mlops.monitor.performance_low", "tweedie_deviance_p1.5", "realised"] == 1.5
    assert found["mlops.monitor.performance", "poisson_deviance", "realised"] == 1


def test_the_bounds_of_a_metric_that_names_a_column_are_not_exported_as_metrics():
    # A column may be called amount_low.
    name = "expected_cost_fp1_fn-amount"
    measured = {name: 2.0, f"{name}_low": 1.5, f"{name}_high": 2.5, f"{name}_reference": 1.0}
    found = values(monitored({**monitor_result(), "metrics": measured}))
    assert found["mlops.monitor.performance_low", name, "realised"] == 1.5
    assert {text for _, *labels in found for text in labels if "fn-amount" in text} == {name}


def test_a_custom_metric_is_exported():
    measured = {"shop.metrics:profit": 0.6, "shop.metrics:profit_low": 0.5, "shop.metrics:profit_reference": 0.7}
    found = values(monitored({**monitor_result(), "metrics": measured, "metric": "shop.metrics:profit"}))
    assert found["mlops.monitor.performance", "shop.metrics:profit", "realised"] == 0.6
    assert found["mlops.monitor.performance_low", "shop.metrics:profit", "realised"] == 0.5
    assert found["mlops.monitor.performance_reference", "shop.metrics:profit", "realised"] == 0.7
    assert not [key for key in found if "shop.metrics:profit_low" in key]


def test_the_mean_error_and_the_rate_of_positives_are_exported_with_their_intervals():
    found = values(monitored(monitor_result()))
    assert [found[f"mlops.monitor.bias{end}",] for end in ("", "_low", "_high", "_reference")] == pytest.approx(
        [0.02, 0.01, 0.03, 0.86]
    )
    assert found["mlops.monitor.positive_rate",] == 0.3
    assert found["mlops.monitor.positive_rate_high",] == pytest.approx(0.31)


def test_fairness_is_exported_by_metric_and_column_with_its_interval():
    # The name of a column may end like that of a bound.
    odds = performance(metric="equalized_odds_over_income_low", value=0.4)
    found = values(monitored(monitor_result(**odds)))
    for metric, column, value in (("demographic_parity", "sex", 0.2), ("equalized_odds", "income_low", 0.4)):
        ends = {"": value, "_low": value - 0.01, "_high": value + 0.01, "_reference": 0.86}
        for end, number in ends.items():
            assert found[f"mlops.monitor.fairness_difference{end}", metric, column] == pytest.approx(number)
    assert len([name for name, *_ in found if "fairness" in name]) == 8


def test_values_that_were_not_measured_are_not_exported():
    empty = {**monitor_result("retrain"), "metrics": {"rows": 0}, "champion": None, "scored_by": None}
    assert {name for name, *_ in values(monitored(empty))} == {
        "mlops.monitor.decision",
        "mlops.monitor.retraining_held_back",
        "mlops.monitor.completed_timestamp_seconds",
        "mlops.monitor.window_end_timestamp_seconds",
        "mlops.monitor.rows",
    }
    assert scored({**score_result(), "dataset": None, "scored_by": None}) == []
    assert ("mlops.champion.version",) not in values(decided({**promote_result(False), "champion": None}, "promoted"))


@pytest.mark.parametrize(
    ("operator", "result", "decision", "champion"),
    [
        (PromoteOperator(task_id="t", verdict={}), promote_result(), "promoted", 3),
        (PromoteOperator(task_id="t", verdict={}), promote_result(False), "refused", 3),
        (PromoteOperator(task_id="t", verdict={}), promote_result(False, None), "unchanged", 3),
        (RollbackOperator(task_id="t", model="delays", reason="r"), rollback_result(), "rolled_back", 2),
    ],
)
def test_the_outcome_for_the_champion_is_exported(operator, result, decision, champion):
    found = values(operator.samples(result))
    assert [key[1] for key, value in found.items() if key[0] == "mlops.champion.decision" and value] == [decision]
    assert found["mlops.champion.version",] == champion


def test_operators_export_results_except_superseded_ones():
    monitor = MonitorOperator(task_id="t", model="delays", dataset=None).samples(monitor_result())
    score = ScoreOperator(task_id="t", model="delays", dataset={}).samples(score_result())
    late = MonitorOperator(task_id="l", model="delays", dataset=None)
    assert late.samples({**monitor_result(), "superseded": True}) == []
    assert (monitor[0].metric.group, score[0].metric.group) == ("monitor", "score")


def test_a_textfile_holds_the_last_run_of_its_model_and_group(folder):
    for samples in groups().values():
        export(samples, log)
    export(scored(score_result(10, "fares/new york")), log)
    export(scored(score_result(5, number=4)), log)
    assert {file.name for file in folder.iterdir()} == {
        "airflow_mlops_monitor_delays.prom",
        "airflow_mlops_score_delays.prom",
        "airflow_mlops_champion_delays.prom",
        "airflow_mlops_score_fares%2Fnew%20york.prom",
    }
    scores = read(folder / "airflow_mlops_score_delays.prom")
    assert scores["airflow_mlops_score_rows", "4", "delays"] == 5
    assert {key[1] for key in scores} == {"4"}
    assert read(folder / "airflow_mlops_score_fares%2Fnew%20york.prom")[
        "airflow_mlops_score_rows", "3", "fares/new york"
    ] == 10  # fmt: skip


def test_promtool_accepts_the_textfiles(folder):
    for samples in groups().values():
        export(samples, log)
    done = promtool("check", "metrics", stdin="".join(file.read_text() for file in folder.iterdir()))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@given(st.text(min_size=1).filter(lambda text: text.encode(errors="ignore").decode() == text))
def test_any_model_name_gives_a_file_in_the_folder(model):
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__MLOPS__PROMETHEUS_TEXTFILE", name)
        # File names are limited to 255 bytes, and one character may take twelve bytes when quoted.
        export(scored(score_result(10, model[:15])), log)
        (file,) = Path(name).iterdir()
        assert file.suffix == ".prom"


def test_a_failing_exporter_logs_a_warning_and_the_others_continue(folder, monkeypatch, caplog):
    monkeypatch.setenv("AIRFLOW__MLOPS__PROMETHEUS_PUSHGATEWAY", "http://127.0.0.1:9")
    monkeypatch.setenv("AIRFLOW__MLOPS__PROMETHEUS_TEXTFILE", str(folder / "missing"))
    export(scored(score_result()), log)
    missing, refused = (record.getMessage() for record in caplog.records)
    assert re.fullmatch(r".*the folder .*missing: .*No such file or directory.*", missing)
    assert re.fullmatch(r".*the Pushgateway http://127.0.0.1:9: .*Connection refused.*", refused)


def test_a_missing_library_is_named(folder, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    export(scored(score_result()), log)
    assert "airflow-mlops[prometheus]" in caplog.messages[0]


def test_an_unreadable_result_does_not_fail_the_task(capsys):
    ScoreOperator(task_id="score", model="delays", dataset={})._export({"summary": "of another version"})
    assert "scored_by" in capsys.readouterr().out


# PromQL keywords in the expressions. Functions are recognised by their bracket.
KEYWORDS = {"and", "or", "unless", "on", "by", "max", "sum"}
EXPRESSIONS = [
    *((f"alert {rule['alert']}", rule["expr"]) for rule in alerts()),
    *((f"panel {title}", expression) for title, expression in dashboard()),
]


GAP = quantiles.name_of(0.9, quantiles.COVERAGE_GAP)
# The metrics of realised performance.
JUDGED = [
    *(metric for names in REALISED.values() for metric in names),
    *(
        COVERAGE,
        "expected_cost_fp1_fn20",
        "poisson_deviance",
        "gamma_deviance",
        "tweedie_deviance_p1.5",
        "ndcg_k10_by-query",
        "mase",
        "smape",
        quantiles.name_of(0.9),
        GAP,
    ),
]


def exported() -> dict[str, dict[str, set[str]]]:
    """The values of every label of every metric."""
    known: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    every = {name: number for metric in JUDGED for name, number in performance(metric=metric).items()}
    for samples in (*groups().values(), monitored({**monitor_result(), "metrics": every})):
        for metric, _, labels in samples:
            for name, text in labels.items():
                known[metric.prometheus][name].add(text)
    return known


def unknown(expression: str) -> set[str]:
    """Metrics, labels and label values in an expression that are not exported."""
    known = exported()
    labels = {label for metric in known.values() for label in metric}
    found = set()
    for metric, matchers in re.findall(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}", expression):
        for label, text in re.findall(r'(\w+)\s*=~?\s*"([^"]*)"', matchers):
            if label not in known.get(metric, {}):
                found.add(f"{metric}{{{label}}}")
            elif text != "$model":
                values = known[metric][label]
                found |= {
                    f"{metric}{{{label}={one}}}"
                    for one in text.split("|")
                    if not any(re.fullmatch(one, value) for value in values)
                }
    bare = re.sub(r"\{[^}]*\}", "", expression)
    names = set(re.findall(r"(?<![\w:$])([a-zA-Z_:][\w:]*)(?![\w:]|\()", bare))
    return found | (names - known.keys() - labels - KEYWORDS)


def test_unknown_names_in_expressions_are_found():
    assert unknown("airflow_mlops_score_columns == 0") == {"airflow_mlops_score_columns"}
    assert unknown('sum by (modl) (airflow_mlops_score_rows{colour="red"})') == {
        "modl",
        "airflow_mlops_score_rows{colour}",
    }
    assert unknown('airflow_mlops_champion_decision{decision=~"refuse|promoted"}') == {
        "airflow_mlops_champion_decision{decision=refuse}"
    }


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_every_expression_uses_exported_metrics_only(where, expression):
    assert unknown(expression) == set(), where


def test_the_dashboard_is_consistent_and_shows_every_metric():
    board = json.loads(DASHBOARD.read_text())
    (query,) = re.findall(r"label_values\((\w+), (\w+)\)", board["templating"]["list"][1]["definition"])
    assert query[1] in exported()[query[0]]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    shown = " ".join(expression for _, expression in dashboard())
    assert [name for name in exported() if not re.search(rf"{name}\b", shown)] == []


def test_the_page_names_every_metric_and_every_alert():
    page = (FOLDER.parent / "metrics.md").read_text()
    for metric in METRICS.values():
        assert f"`{metric.prometheus}`" in page
    for rule in alerts():
        assert f"`{rule['alert']}`" in page


def test_a_fall_of_every_built_in_metric_fires_the_alert_in_the_right_direction():
    (rule,) = (rule for rule in alerts() if rule["alert"] == "ModelPerformanceFell")
    rising, falling, gaps = re.findall(r'metric=~"(.+?)"', rule["expr"])
    for name in JUDGED:
        if name == GAP:
            # The tolerance of a gap is absolute, because a good gap is almost 0.
            assert [bool(re.fullmatch(listed, name)) for listed in (rising, falling, gaps)] == [False, False, True]
            continue
        greater_is_better = find_metric(name).higher_is_better
        assert (re.fullmatch(rising, name) is not None) == greater_is_better, name
        assert (re.fullmatch(falling, name) is not None) != greater_is_better, name


def test_promtool_accepts_the_alert_rules():
    done = promtool("check", "rules", ALERTS)
    assert done.returncode == 0, done.stderr
    assert f"SUCCESS: {len(alerts())} rules found" in done.stdout


def at(second: int, samples: list[Sample]) -> list[Sample]:
    """The samples as of a time on promtool's clock, which starts at 0."""
    return [item._replace(value=second) if "completed" in item.metric.name else item for item in samples]


FELL = at(0, monitored(monitor_result("retrain", **performance(value=0.7))))
F1_FELL = at(0, monitored(monitor_result("retrain", **performance(metric="f1", value=0.7))))
ROSE = at(0, monitored(monitor_result("retrain", **performance(metric="rmse", value=0.9))))
HEALTHY = at(0, monitored(monitor_result()))
HELD_BACK = at(0, monitored({**monitor_result("watch", **performance(value=0.7)), "held_back": ["performance"]}))
IMMATURE = at(0, monitored(monitor_result("watch", **performance(value=0.7))))
SCORED, NO_ROWS = at(0, scored(score_result())), at(0, scored(score_result(0)))
PROMOTED, REFUSED = at(60, decided(promote_result(), "promoted")), at(60, decided(promote_result(False), "promoted"))
REFUSED_BEFORE = at(-60, REFUSED)


@pytest.mark.parametrize(
    ("samples", "days", "expected"),
    [
        pytest.param([*HEALTHY, *PROMOTED, *SCORED], 1, set(), id="all is well"),
        pytest.param(IMMATURE, 3, set(), id="too few labels to judge performance"),
        pytest.param(FELL, 0, {"ModelPerformanceFell"}, id="a metric fell"),
        pytest.param(F1_FELL, 0, {"ModelPerformanceFell"}, id="a metric of classes fell"),
        pytest.param(HELD_BACK, 3, {"ModelPerformanceFell"}, id="a metric fell, and retraining is held back"),
        pytest.param([*ROSE, *PROMOTED], 0, {"ModelPerformanceFell"}, id="an error rose"),
        pytest.param(FELL, 2, {"ModelPerformanceFell", "ModelRetrainingOverdue"}, id="no candidate since"),
        pytest.param([*FELL, *PROMOTED], 2, {"ModelPerformanceFell"}, id="a candidate was promoted since"),
        pytest.param(
            [*FELL, *REFUSED], 2, {"ModelPerformanceFell", "ModelRetrainingRefused"}, id="candidates were refused"
        ),
        pytest.param([*FELL, *REFUSED_BEFORE], 0, {"ModelPerformanceFell"}, id="earlier candidates were refused"),
        pytest.param([*HEALTHY, *REFUSED], 2, set(), id="refused without need"),
        pytest.param(NO_ROWS, 0, {"ModelScoredNoRows"}, id="no rows"),
        pytest.param([*HEALTHY, *SCORED], 41, {"ModelNotMonitored", "ModelNotScoring"}, id="no runs"),
    ],
)
def test_alerts_fire_when_they_should(samples, days, expected, tmp_path):
    series = []
    for metric, value, labels in samples:
        matchers = ",".join(f'{name}="{text}"' for name, text in labels.items())
        series.append({"series": f"{metric.prometheus}{{{matchers}}}", "values": f"{value}+0x{days * 24}"})
    asked = {
        "expr": 'sum by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": f"{days}d",
        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in expected],
    }
    test = {"interval": "1h", "input_series": series, "promql_expr_test": [asked]}
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1h", "tests": [test]}))
    done = promtool("test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr
