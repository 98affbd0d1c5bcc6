"""Forecasts of statistical models, which are fitted to the values of a series up to each origin.

The models are those of statsforecast. A fit uses only the values up to its origin:

- a missing value between two known values is replaced by the value one season before it, or in the first season by the
  value before it;
- steps without a value directly before the origin are not replaced. The model is fitted to the values before them, and
  forecasts over them.

A fit has no forecast if the series has fewer known values than two seasons up to the origin, if the model fails, or if its
forecast is not finite. The rows then have the seasonal-naive forecast, and the fit is counted.
"""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version as distribution_version
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from airflow_mlops.core.base import choices
from airflow_mlops.core.counts import counted
from airflow_mlops.core.cpus import wanted_threads
from airflow_mlops.core.errors import SpecError, TrainingError, one_line
from airflow_mlops.data import relational
from airflow_mlops.data.spool import Rows, spooled
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.forecast_rows import query
from airflow_mlops.stages.forecast_rows.history import LARGEST
from airflow_mlops.stages.forecast_rows.spec import ForecastRowsSpec, StatisticalModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]
    Floats = NDArray[np.float64]

# These models do not forecast the mean of the values, need Python objects as parameters, or draw random numbers.
_UNSUITABLE = ("ARCH", "GARCH", "ConformalSeasonalPool", "NaNModel", "SklearnModel")
# Maximum number of origins of one series in a task of a process; maximum numbers of values and of fits in the tasks
# that are in memory at the same time.
_ORIGINS, _VALUES, _FITS = 16, 2_000_000, 4_000
# Fewer fits take less time than starting processes.
_FEWEST_FITS = 200
_SHORT = "fewer known values than two seasons"


@dataclass
class Forecasts:
    """The forecasts of all statistical models.

    :ivar rows: number of the series (``id``), number of the origin (``p``), and for each model a list with a forecast for
        each step (``m0``, ``m1`` and so on), null if the fit has no forecast. ``None`` without models
    :ivar fallbacks: number of fits without a forecast, by column of the model. Models without such fits are left out
    """

    rows: Rows | None = None
    fallbacks: dict[str, int] = field(default_factory=dict)

    @property
    def tables(self) -> dict[str, tuple[pa.Schema, Iterable[pa.RecordBatch]]]:
        """Return the table ``forecasts`` for the query of the rows."""
        return {} if self.rows is None else {"forecasts": (self.rows.schema, self.rows.to_batches())}


class Part(NamedTuple):
    """Some origins of a series, with the known values up to the last of them.

    :param id: number of the series
    :param numbers: numbers of the times of the known values, ascending, shape (n,)
    :param values: the known values, shape (n,)
    :param origins: numbers of the origins, ascending
    """

    id: int
    numbers: Integers
    values: Floats
    origins: Integers


@contextmanager
def forecast(
    spec: ForecastRowsSpec, context: StepContext, connection: Any, events: Rows, newest: int, series: int
) -> Iterator[Forecasts]:
    """Forecast with all models from all origins. The forecasts are in a temporary file until the end of the block.

    :param events: the history
    :param newest: number of the newest time at which a series has a value
    :param series: number of series, for messages
    :raises SpecError: statsforecast is not installed, or a model or its parameters do not exist
    :raises TrainingError: a model failed in every fit
    """
    if not spec.models:
        yield Forecasts()
        return
    build(spec.models, spec.season)
    context.progress(f"Fitting {', '.join(spec.statistical)} to {series:,} series.")
    found: Any = relational.stream(connection, query.histories(spec), {"events": (events.schema, events.to_batches())})
    reasons: list[Counter[str]] = [Counter() for _ in spec.models]
    fits = 0
    lists = [(f"m{n}", pa.list_(pa.float64())) for n in range(len(spec.models))]
    schema = pa.schema([("id", pa.int64()), ("p", pa.int64()), *lists])

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal fits
        tenth, told = max(series // 10, 1), 0
        for part, (values, why) in _fitted(_parts(_series(found), spec, newest), spec):
            fits += len(part.origins)
            for each, more in zip(reasons, why, strict=True):
                each.update(more)
            if part.id >= told + tenth:
                told = part.id
                context.progress(f"Fitted the models to {told:,} of {series:,} series.")
            forecasts = [
                pa.array([None if row is None else row.tolist() for row in model], lists[0][1]) for model in values
            ]
            yield pa.RecordBatch.from_arrays(
                [pa.array([part.id] * len(part.origins), pa.int64()), pa.array(part.origins), *forecasts], schema=schema
            )

    # An error must end the query before its database is closed.
    with closing(found), spooled(batches(), schema) as rows:
        fallbacks = {}
        for column, each in zip(spec.statistical, reasons, strict=True):
            if not each:
                continue
            _require_a_fit(column, each, fits)
            fallbacks[column] = each.total()
            listed = "; ".join(f"{count:,} fits: {reason}" for reason, count in each.most_common(3))
            context.progress(
                f"{column} has no forecast in {each.total():,} of {counted(fits, 'fit')}, so these rows have the seasonal-naive "
                f"forecast ({listed})."
            )
        yield Forecasts(rows, fallbacks)


def version(spec: ForecastRowsSpec) -> dict[str, str]:
    """Return the entry for the manifest with the version of statsforecast; empty without models."""
    return {"statsforecast": distribution_version("statsforecast")} if spec.models else {}


def build(models: Sequence[StatisticalModel], season: int) -> list[Any]:
    """Create the models.

    :param season: number of steps in a season, the default of the parameter ``season_length``
    :raises SpecError: statsforecast is not installed, or a model or its parameters do not exist
    """
    try:
        from statsforecast import models as library
    except ModuleNotFoundError as error:
        if error.name != "statsforecast":
            raise
        raise SpecError(
            "`models` need statsforecast, which is not installed where the step runs. Install airflow-mlops[forecast] there."
        ) from None
    return [_build(library, each, season) for each in models]


def _build(library: Any, declared: StatisticalModel, season: int) -> Any:
    known = [name for name in library.__all__ if name not in _UNSUITABLE]
    if declared.model not in known:
        raise SpecError(
            f"`models` has the unknown statistical model {declared.model!r}: {choices(declared.model, known)}."
        )
    kind = getattr(library, declared.model)
    accepted = list(inspect.signature(kind).parameters)
    if unknown := [name for name in declared.params if name not in accepted]:
        raise SpecError(
            f"{declared.model} in `models` has no parameter {unknown[0]!r}: {choices(unknown[0], accepted)}."
        )
    params = {"season_length": season, **declared.params} if "season_length" in accepted else declared.params
    try:
        return kind(**params)
    except Exception as error:  # noqa: BLE001 - each class checks its own parameters, with its own errors
        raise SpecError(f"The parameters of {declared.model} in `models` cannot be used: {one_line(error)}.") from None


def _require_a_fit(column: str, reasons: Counter[str], fits: int) -> None:
    failed = Counter({reason: count for reason, count in reasons.items() if reason != _SHORT})
    if failed and failed.total() == fits - reasons[_SHORT]:
        reason = failed.most_common(1)[0][0]
        raise TrainingError(
            f"The statistical model {column} failed in every fit ({failed.total():,}), most often with {reason}. Correct its "
            "parameters, or remove it from `models`."
        )


def _series(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, Integers, Floats]]:
    """Split the known values, ordered by series and time, into series: number, numbers of the times, and values."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        ids = batch["id"].to_numpy()
        starts = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist()]
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            if held and held[0]["id"][0].as_py() != ids[start]:
                yield _one_series(held)
                held = []
            held.append(batch.slice(start, end - start))
    if held:
        yield _one_series(held)


def _one_series(batches: Sequence[pa.RecordBatch]) -> tuple[int, Integers, Floats]:
    table = pa.Table.from_batches(batches)
    return table["id"][0].as_py(), table["p"].to_numpy(), table["v"].to_numpy()


def _parts(series: Iterable[tuple[int, Integers, Floats]], spec: ForecastRowsSpec, newest: int) -> Iterator[Part]:
    for id_, numbers, values in series:
        origins = _origins(numbers, spec, newest)
        for start in range(0, len(origins), _ORIGINS):
            chosen = origins[start : start + _ORIGINS]
            end = np.searchsorted(numbers, chosen[-1], "right")
            yield Part(id_, numbers[:end], values[:end], chosen)


def _origins(numbers: Integers, spec: ForecastRowsSpec, newest: int) -> Integers:
    """Return the origins of a series for which the query makes rows."""
    scoring = spec.origins == "newest"
    origins = np.array([newest]) if scoring else np.arange(numbers[0], numbers[-1] + 1)
    if not scoring:
        origins = origins[origins % spec.stride == 0]
    after = np.searchsorted(numbers, origins, "right")
    kept = origins - numbers[after - 1] < spec.recent
    if not scoring:
        targets = numbers[np.minimum(after, len(numbers) - 1)] - origins
        kept &= (targets >= 1) & (targets <= spec.horizon)
    return np.asarray(origins[kept], dtype=np.int64)


Fitted = tuple[list[list["Floats | None"]], list[dict[str, int]]]


def _fitted(parts: Iterator[Part], spec: ForecastRowsSpec) -> Iterator[tuple[Part, Fitted]]:
    """Fit the models to all parts, in their order, in several processes if there are many fits."""
    fit = partial(fit_part, models=spec.models, season=spec.season, horizon=spec.horizon, recent=spec.recent)
    processes = wanted_threads()
    groups = _groups(parts, len(spec.models))
    first = next(groups, [])
    if processes == 1 or sum(len(part.origins) for part in first) * len(spec.models) < _FEWEST_FITS:
        for part in chain(first, chain.from_iterable(groups)):
            yield part, fit(part)
        return
    with _processes(processes) as run:
        for group in chain([first], groups):
            for part, found in zip(group, run(fit, group), strict=True):
                yield part, found


@contextmanager
def _processes(count: int) -> Iterator[Callable[[Callable[[Part], Fitted], list[Part]], list[Fitted]]]:
    # Threads would wait for each other, because the models hold the lock of Python's interpreter. Processes of joblib are
    # neither forked from this process, which has threads, nor do they import its main module.
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    try:
        with Parallel(n_jobs=count, backend="loky", max_nbytes=None) as pool:
            yield lambda fit, group: pool(delayed(fit)(part) for part in group)
    finally:
        get_reusable_executor().shutdown(wait=True)


def _groups(parts: Iterator[Part], models: int) -> Iterator[list[Part]]:
    """Collect parts, so that only a bounded number of values is in memory at the same time."""
    group: list[Part] = []
    values = fits = 0
    for part in parts:
        group.append(part)
        values += len(part.values)
        fits += len(part.origins) * models
        if values >= _VALUES or fits >= _FITS:
            yield group
            group, values, fits = [], 0, 0
    if group:
        yield group


def fit_part(part: Part, *, models: Sequence[StatisticalModel], season: int, horizon: int, recent: int) -> Fitted:
    """Fit the models to the values up to each origin, and forecast the steps after it.

    :param recent: number of steps up to an origin in which the series has a value
    :return: for each model, the forecasts from each origin, each of shape (horizon,), or ``None``; and for each model the
        number of fits without a forecast, by reason
    """
    built = build(models, season)
    filled = _filled(part.numbers, part.values, season)
    found: list[list[Floats | None]] = [[] for _ in models]
    reasons: list[Counter[str]] = [Counter() for _ in models]
    earlier: dict[int, list[Floats | str]] = {}
    for origin in part.origins:
        known = int(np.searchsorted(part.numbers, origin, "right"))
        last = int(part.numbers[known - 1])
        if last not in earlier:
            past = filled[: last - int(part.numbers[0]) + 1]
            # The number of forecast steps is the same for all origins, so that a forecast does not depend on later
            # origins.
            steps = horizon + recent - 1
            earlier[last] = [_SHORT if known < 2 * season else _forecast(model, past, steps) for model in built]
        for n, whole in enumerate(earlier[last]):
            ahead = int(origin) - last
            forecasts = whole if isinstance(whole, str) else whole[ahead : ahead + horizon]
            if not isinstance(forecasts, str) and not (np.abs(forecasts) <= LARGEST).all():
                forecasts = "forecasts that are not finite"
            if isinstance(forecasts, str):
                reasons[n][forecasts] += 1
                found[n].append(None)
            else:
                found[n].append(forecasts)
    return found, [dict(each) for each in reasons]


def _forecast(model: Any, past: Floats, steps: int) -> Floats | str:
    """Return the forecasts, or the reason why there are none."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            forecasts = np.asarray(model.forecast(y=past.copy(), h=steps)["mean"], dtype=np.float64)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the models raise errors of many types for series that they cannot fit
        return f"the error {one_line(error, 200)}"
    return forecasts if forecasts.shape == (steps,) else f"{len(forecasts)} instead of {steps} forecasts"


def _filled(numbers: Integers, values: Floats, season: int) -> Floats:
    """Return a value for each step from the first to the last. The value of a step depends on no later step."""
    places = numbers - numbers[0]
    filled = np.full(int(places[-1]) + 1, np.nan)
    filled[places] = values
    for place in np.flatnonzero(np.isnan(filled)):
        filled[place] = filled[place - season] if place >= season else filled[place - 1]
    return filled
