"""Render a backtest as one HTML page that needs no scripts, no network and no fonts.

The templates are in ``templates/`` and escape all text that comes from data. The style sheet is that of the monitoring
report.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from airflow_mlops.core.counts import counted
from airflow_mlops.core.numbers import rounded
from airflow_mlops.performance.findings import loss_name
from airflow_mlops.policy.spec import Policy
from airflow_mlops.policy.wording import capitalized, metric_name, number, share
from airflow_mlops.stages.backtest.page.chart import chart, legend, trained_mark
from airflow_mlops.stages.backtest.spec import BacktestResult, Replayed, Step
from airflow_mlops.stages.monitor.page import report as monitoring


class Row(NamedTuple):
    """The summary of one strategy.

    :param value: mean of the metric over the windows
    :param loss: mean loss, with the difference from the oracle's mean loss
    :param trainings: number of trainings
    :param comparisons: number of windows in which challengers were trained and compared
    :param false_asks: text with two numbers: trainings that did not help, and trainings of which later windows show
        whether they helped
    """

    name: str
    value: str
    loss: str
    trainings: str
    comparisons: str
    false_asks: str


class Line(NamedTuple):
    """One window: the metric of each strategy, and the decision of the policy.

    :param values: the metric of each strategy, with a mark if a model was trained afterwards
    :param triggers: the triggers whose condition was met
    :param result: whether the policy's training helped
    """

    window: str
    values: list[str]
    triggers: str
    result: str


@cache
def _environment() -> Environment:
    return Environment(
        loader=ChoiceLoader([PackageLoader(__package__), PackageLoader(monitoring.__package__)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(result: BacktestResult) -> str:
    """Return the HTML page of a backtest."""
    metric = metric_name(result.metric)
    by_name = {item.strategy: item for item in result.strategies}
    return (
        _environment()
        .get_template("backtest.html.jinja")
        .render(
            title=f"{result.version.model} · backtest of {_span(by_name['policy'])}",
            metric=capitalized(metric),
            loss=loss_name(result.metric),
            version=str(result.version),
            windows=counted(len(by_name["policy"].steps), "window"),
            headline=_headline(by_name, metric),
            rows=[_row(item, by_name["oracle"]) for item in result.strategies],
            legend=legend(result.strategies),
            trained=trained_mark(),
            chart=chart(result.strategies, metric),
            strategies=[item.strategy for item in result.strategies],
            lines=_lines(result),
            policy=policy_text(result.policy),
            facts=_facts(result),
        )
    )


def policy_text(policy: Policy) -> str:
    """Return the settings of a policy that differ from the defaults, as YAML."""
    import yaml

    changed = policy.model_dump(mode="json", exclude_defaults=True)
    return str(yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)) if changed else "# the default policy\n"


def _span(item: Replayed) -> str:
    first, last = item.steps[0].window.label, item.steps[-1].window.label
    return first if first == last else f"{first} to {last}"


def _headline(by_name: dict[str, Replayed], metric: str) -> str:
    policy, every, never = (by_name[name] for name in ("policy", "every window", "never"))
    return (
        f"Mean {metric} {number(policy.mean_value)} with {counted(policy.trainings, 'training')}; trained after every window: "
        f"{number(every.mean_value)} with {every.trainings}; never trained again: {number(never.mean_value)}"
    )


def _row(item: Replayed, oracle: Replayed) -> Row:
    above = item.mean_loss / oracle.mean_loss - 1 if oracle.mean_loss > 0 else 0.0
    more = "" if item is oracle else f" ({share(above)} above the oracle)"
    trains = item.strategy in ("policy", "every window")
    return Row(
        name=item.strategy,
        value=number(item.mean_value),
        loss=f"{number(item.mean_loss)}{more}",
        trainings=str(item.trainings) if trains or item.strategy == "never" else "-",
        comparisons=str(item.comparisons) if item.strategy == "policy" else "-",
        false_asks=f"{item.false_asks} of {item.judged_asks}" if trains else "-",
    )


def _lines(result: BacktestResult) -> list[Line]:
    (policy,) = [item for item in result.strategies if item.strategy == "policy"]
    results = {True: "helped", False: "did not help", None: "no later window"}
    return [
        Line(
            window=step.window.label,
            values=[
                f"{_value(item.steps[index])}{' ↻' if item.steps[index].trained else ''}" for item in result.strategies
            ],
            triggers=", ".join(step.triggers),
            result=results[step.helped] if step.trained else "",
        )
        for index, step in enumerate(policy.steps)
    ]


def _value(step: Step) -> str:
    return "no value" if step.value is None else number(step.value)


def _facts(result: BacktestResult) -> list[tuple[str, str]]:
    each = result.seconds / result.fits if result.fits else 0.0
    return [
        ("Began with", f"{result.version} (MLflow run {result.version.run_id or '-'})"),
        ("Window", str(result.window)),
        ("Labels arrive", f"after {counted(result.delay, 'window')}" if result.delay else "at the end of their window"),
        ("Fits", f"{result.fits:,} models for all strategies together, {rounded(each, 3)} seconds each on average"),
        ("Written", f"{result.created:%Y-%m-%d %H:%M:%S} UTC"),
    ]
