"""The coverage of the interval of performance that is estimated without labels.

``python -m benchmarks.estimation [--repetitions N] [--first-seed N] [--task ...]``. In seeded simulations a model is
trained, and its held-out rows are profiled as in TrainOperator. Windows with covariate shift follow: the inputs move, and
the relation between inputs and outcome stays. The benchmark counts how often the realised metric lies inside the 95%
interval of the estimate.

Classification: gradient boosting can learn the relation. A logistic regression cannot, so its scores have another meaning
for other inputs, which the method cannot detect; it is reported separately. Regression: five relations (``RELATIONS``),
with the first or with all features shifted. The width is half of the interval as a share of the realised value, next to the
width without the correction for moved inputs. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from statistics import fmean
from typing import Any

from benchmarks.regressions import HELD_OUT as REGRESSION_HELD_OUT
from benchmarks.regressions import METRICS, RELATIONS, cases
from benchmarks.regressions import SHIFTS as REGRESSION_SHIFTS

REPETITIONS = 60
HELD_OUT = (1_000, 10_000)
WINDOWS = (500, 2_000, 20_000)
SHIFTS = (0.0, 0.5, 1.0)
BINARY = ("roc_auc", "accuracy", "log_loss", "brier")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--task", choices=["classification", "regression"], help="by default both")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.repetitions)
    started = time.perf_counter()
    figures: dict[str, Any] = {"benchmark": "estimation", "repetitions": arguments.repetitions}
    if arguments.task != "regression":
        figures |= classifications(seeds)
    if arguments.task != "classification":
        figures |= regressions(seeds)
    print(json.dumps({**figures, "seconds": round(time.perf_counter() - started, 1)}))


def classifications(seeds: Iterable[int]) -> dict[str, Any]:
    found: dict[str, list[tuple[bool, float]]] = {}
    for model in ("boosting", "linear"):
        print(f"{'Gradient boosting' if model == 'boosting' else 'A model that cannot learn the truth'}, roc_auc:")
        for held_out in HELD_OUT:
            table: dict[tuple[int, float], list[tuple[bool, float]]] = {}
            for seed in seeds:
                for place, metric, held, width in classified(model, held_out, seed):
                    found.setdefault(f"{model}.{metric}", []).append((held, width))
                    if metric == "roc_auc":
                        table.setdefault(place, []).append((held, width))
            for (rows, shift), windows in table.items():
                print(
                    f"  {held_out:6,} held-out rows, windows of {rows:6,} shifted by {shift:.1f}: "
                    f"{share(windows):6.1%} inside, interval {mean_width(windows):.3f} wide",
                    flush=True,
                )
    for metric in BINARY:
        print(f"  {metric:9} {share(found[f'boosting.{metric}']):6.1%} inside, gradient boosting, all windows")
    main_figures, apart = found["boosting.roc_auc"], found["linear.roc_auc"]
    return {
        "windows": len(main_figures),
        "coverage": round(share(main_figures), 4),
        "width": round(mean_width(main_figures), 4),
        "metrics": {metric: round(share(found[f"boosting.{metric}"]), 4) for metric in BINARY},
        "coverage_of_a_wrong_model": round(share(apart), 4),
    }


def regressions(seeds: Iterable[int]) -> dict[str, Any]:
    found = [case for seed in seeds for relation in RELATIONS for case in cases(relation, seed)]
    worst = 1.0
    for metric in METRICS:
        for relation in RELATIONS:
            print(f"{metric}, {relation}:")
            for shift, everywhere in REGRESSION_SHIFTS:
                here = [
                    case
                    for case in found
                    if (case.metric, case.relation, case.shift, case.everywhere)
                    == (metric, relation, shift, everywhere)
                ]
                worst = min(worst, fmean(case.held for case in here))
                where = "all features" if everywhere else "one feature"
                print(
                    f"  {where:12} shifted by {shift:.1f}: {fmean(case.held for case in here):6.1%} inside, half width "
                    f"{fmean(case.width for case in here):5.1%}; by the prediction alone "
                    f"{fmean(case.by_prediction for case in here):6.1%}, {fmean(case.width_by_prediction for case in here):5.1%}"
                )
        for held_out in REGRESSION_HELD_OUT:
            here = [case for case in found if case.metric == metric and case.held_out == held_out]
            print(f"{metric}, {held_out:6,} held-out rows: {fmean(case.held for case in here):6.1%} inside")
    unmoved = [case for case in found if not case.shift]
    return {
        "regression_windows": len(found) // len(METRICS),
        "regression_coverage": {
            metric: round(fmean(case.held for case in found if case.metric == metric), 4) for metric in METRICS
        },
        "regression_worst_cell": round(worst, 4),
        "regression_width_unmoved": round(
            fmean(case.width for case in unmoved) / fmean(case.width_by_prediction for case in unmoved), 4
        ),
    }


def share(windows: list[tuple[bool, float]]) -> float:
    return sum(held for held, _ in windows) / len(windows)


def mean_width(windows: list[tuple[bool, float]]) -> float:
    return sum(width for _, width in windows) / len(windows)


def classified(model: str, held_out: int, seed: int) -> Any:
    """Windows of one model: size and shift, metric, whether the interval covers the realised value, and its width."""
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(seed)

    def draw(rows: int, shift: float = 0.0) -> tuple[Any, Any]:
        inputs, signal = world(random, rows, shift)
        return inputs, random.random(rows) < 1 / (1 + np.exp(-signal))

    made = HistGradientBoostingClassifier(max_iter=60, random_state=seed) if model == "boosting" else None
    fitted = (made or LogisticRegression()).fit(*draw(4 * held_out))

    def rows(inputs: Any, truth: Any) -> Any:
        score = fitted.predict_proba(inputs)[:, 1]
        return score, truth, (score >= 0.5) == truth

    yield from compared(BINARY, rows(*draw(held_out)), (rows(*draw(*place)) for place in places()))


def places() -> list[tuple[int, float]]:
    return [(rows, shift) for rows in WINDOWS for shift in SHIFTS]


def world(random: Any, rows: int, shift: float) -> tuple[Any, Any]:
    """Inputs, two of them shifted by ``shift`` and half of it, and a non-linear outcome with interactions."""
    import numpy as np

    inputs = random.normal(size=(rows, 4))
    inputs[:, 0] += shift
    inputs[:, 1] += shift / 2
    signal = (
        -1 + inputs[:, 0] + 0.7 * np.sin(2 * inputs[:, 1]) + 0.5 * inputs[:, 0] * inputs[:, 2] - 0.3 * inputs[:, 3] ** 2
    )
    return inputs, signal


def compared(metrics: tuple[str, ...], held_out: Any, windows: Any) -> Any:
    from airflow_mlops.metrics.realised import Outcomes, measure
    from airflow_mlops.performance.estimation import collect, estimate
    from airflow_mlops.profiles.calibration import calibrate

    score, truth, right = held_out
    known = calibrate("binary", Outcomes(truth, score, right))
    assert known is not None
    for place, (score, truth, right) in zip(places(), windows, strict=True):
        scores = collect([score], known)
        for metric in metrics:
            found = estimate(metric, scores, known, 0.95, 0.5)
            realised = measure(metric, Outcomes(truth, score, right), 0.95).value
            yield place, metric, found.low <= realised <= found.high, found.high - found.low


if __name__ == "__main__":
    main()
