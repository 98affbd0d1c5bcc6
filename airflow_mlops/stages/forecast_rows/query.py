"""The queries that make rows with features from a history, by window functions of DuckDB.

Every feature of a row is computed over rows of its series up to the origin. Only the label and the columns that are known in
advance come from the target time.
"""

from __future__ import annotations

from dataclasses import dataclass

from airflow_mlops.metrics.forecasts import NAIVE, SCALE
from airflow_mlops.stages.forecast_rows.spec import ORIGIN, STEP, ForecastRowsSpec

TARGET, LABEL, ABSENT = "target", "label", "absent"
"""The columns of a result: the number of the target time, the value at this time, and whether the history has no row
for this time."""


def summary(spec: ForecastRowsSpec) -> str:
    """Return the query for the facts about a history: see :class:`airflow_mlops.stages.forecast_rows.step.Facts`."""
    names = _names(spec)
    return f"""
        WITH counted AS (SELECT {names}, p, count(*) AS n, count(v) AS valued FROM events GROUP BY {names}, p),
        series AS (
            SELECT {names}, max(n) AS n, arg_max(p, n) AS p, min(p) FILTER (valued > 0) AS first, max(p) FILTER (valued > 0) AS last
            FROM counted GROUP BY {names}
        )
        SELECT count(*) AS series, coalesce(sum(last - first + 1), 0)::BIGINT AS steps, max(n) AS n, arg_max(p, n) AS p,
            {", ".join(f"arg_max(s{k}, n) AS s{k}" for k in range(len(spec.series)))}
        FROM series
    """  # noqa: S608 - the names are generated here


def histories(spec: ForecastRowsSpec) -> str:
    """Return the query for the known values: the numbers of series (``id``) and time (``p``), and the value (``v``).

    The rows are ordered by series and time. The series have the same numbers as in :func:`rows`.
    """
    return f"WITH {_series(spec)} SELECT id, p, v FROM observed WHERE v IS NOT NULL ORDER BY id, p"  # noqa: S608


@dataclass(frozen=True)
class _Window:
    """A window of DuckDB: the rows of a series in the order of time."""

    partition: str = "id"

    def over(self, rows: int | None = None) -> str:
        """Return the clause ``OVER`` for the last ``rows`` steps up to the origin; by default for all steps up to it."""
        start = "UNBOUNDED" if rows is None else str(rows - 1)
        return f"OVER (PARTITION BY {self.partition} ORDER BY p ROWS BETWEEN {start} PRECEDING AND CURRENT ROW)"


def rows(spec: ForecastRowsSpec, newest: int) -> str:
    """Return the query for the rows. With statistical models, it reads the table ``forecasts`` of :mod:`.statistical`.

    :param newest: number of the newest time at which a series has a value
    """
    season = spec.season
    scoring = spec.origins == "newest"
    series, by_season = _Window(), _Window(f"id, ((p % {season}) + {season}) % {season}")
    shifts = sorted({_shift(step, season) for step in range(1, spec.horizon + 1)})
    lag = "OVER (PARTITION BY id ORDER BY p)"
    features = [
        *(f"lag(v, {each - 1}) {lag} AS lag_{each}" for each in spec.lags),
        *(f"avg(v) {series.over(each)} AS mean_{each}" for each in spec.rolling),
        *(f"stddev_samp(v) {series.over(each)} AS std_{each}" for each in spec.rolling),
        *(f"lag(same_season, {each}) {lag} AS naive_{each}" for each in shifts),
        f"last_value(v IGNORE NULLS) {series.over()} AS latest",
        f"avg(error) {series.over()} AS scale",
        f"count(v) {series.over(spec.recent)} AS recent",
    ]
    naive = ", ".join(f"naive_{_shift(step, season)}" for step in range(1, spec.horizon + 1))
    chosen = f"p = {newest}" if scoring else f"((p % {spec.stride}) + {spec.stride}) % {spec.stride} = 0"
    columns = [
        *(f"series.s{n}" for n in range(len(spec.series))),
        f"origins.p + steps.h AS {TARGET}",
        f"origins.p AS {ORIGIN}",
        f"steps.h AS {STEP}",
        f"observed.v AS {LABEL}",
        f"observed.p IS NULL AS {ABSENT}",
        *(f"observed.k{n}" for n in range(len(spec.known))),
        *(f"origins.{name}" for name in spec.from_history),
        f"coalesce([{naive}][steps.h], latest) AS {NAIVE}",
        f"coalesce(scale, 0) AS {SCALE}",
        *(f"coalesce(forecasts.m{n}[steps.h], {NAIVE}) AS m{n}" for n in range(len(spec.models))),
    ]
    forecasts = "LEFT JOIN forecasts ON forecasts.id = origins.id AND forecasts.p = origins.p" if spec.models else ""
    return f"""
        WITH {_series(spec)},
        grid AS (SELECT id, unnest(range(first, {newest if scoring else "last"} + 1)) AS p FROM series),
        filled AS (SELECT grid.id, grid.p, observed.v FROM grid LEFT JOIN observed ON grid.id = observed.id AND grid.p = observed.p),
        seasonal AS (
            SELECT *, abs(v - lag(v, {season}) {lag}) AS error, last_value(v IGNORE NULLS) {by_season.over()} AS same_season
            FROM filled
        ),
        features AS (SELECT id, p, {", ".join(features)} FROM seasonal),
        origins AS (SELECT * FROM features WHERE recent > 0 AND {chosen})
        SELECT {", ".join(columns)}
        FROM origins CROSS JOIN (SELECT unnest(range(1, {spec.horizon + 1})) AS h) steps
        JOIN series ON series.id = origins.id
        LEFT JOIN observed ON observed.id = origins.id AND observed.p = origins.p + steps.h
        {forecasts}
        {"" if scoring else "WHERE observed.v IS NOT NULL"}
        ORDER BY origins.p, origins.id, steps.h
    """  # noqa: S608 - the names are generated here


def _series(spec: ForecastRowsSpec) -> str:
    """Return the common table expressions ``series``, which numbers the series with a value, and ``observed``."""
    names = _names(spec)
    return f"""long AS MATERIALIZED (SELECT * FROM events),
        named AS (
            SELECT {names}, min(p) FILTER (v IS NOT NULL) AS first, max(p) FILTER (v IS NOT NULL) AS last FROM long GROUP BY {names}
        ),
        series AS MATERIALIZED (SELECT *, row_number() OVER (ORDER BY {names}) AS id FROM named WHERE first IS NOT NULL),
        observed AS MATERIALIZED (SELECT series.id, long.* FROM long JOIN series USING ({names}))"""  # noqa: S608


def _shift(step: int, season: int) -> int:
    """Return how many steps lie between the value that is the seasonal-naive forecast and the origin.

    The number is at least 0 and less than the season.

    :param step: number of steps from the origin to the target time
    :param season: number of steps in a season
    """
    return -step % season


def _names(spec: ForecastRowsSpec) -> str:
    return ", ".join(f"s{n}" for n in range(len(spec.series)))
