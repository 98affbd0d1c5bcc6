"""The coverage of the interval of performance that is estimated without labels.

``python -m benchmarks.estimation [--repetitions N]``. In seeded simulations a model is trained, and its held-out rows are
profiled as in TrainOperator. Windows with covariate shift follow: the inputs move, and the relation between inputs and
outcome stays. The benchmark counts how often the realised metric lies inside the 95% interval of the estimate. Gradient
boosting can learn the relation. A logistic regression cannot, so its scores have another meaning for other inputs, which the
method cannot detect; it is reported separately. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

REPETITIONS = 60
HELD_OUT = (1_000, 10_000)
WINDOWS = (500, 2_000, 20_000)
SHIFTS = (0.0, 0.5, 1.0)
BINARY, REGRESSION = ("roc_auc", "accuracy", "log_loss", "brier"), ("rmse", "mae")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    repetitions = parser.parse_args().repetitions
    found: dict[str, list[tuple[bool, float]]] = {}
    started = time.perf_counter()
    for model in ("boosting", "linear"):
        print(f"{'Gradient boosting' if model == 'boosting' else 'A model that cannot learn the truth'}, roc_auc:")
        for held_out in HELD_OUT:
            table: dict[tuple[int, float], list[tuple[bool, float]]] = {}
            for seed in range(repetitions):
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
    for seed in range(repetitions):
        for _, metric, held, width in valued(10_000, seed):
            found.setdefault(f"boosting.{metric}", []).append((held, width))
    for metric in (*BINARY, *REGRESSION):
        print(f"  {metric:9} {share(found[f'boosting.{metric}']):6.1%} inside, gradient boosting, all windows")
    main_figures, apart = found["boosting.roc_auc"], found["linear.roc_auc"]
    print(
        json.dumps(
            {
                "benchmark": "estimation",
                "repetitions": repetitions,
                "windows": len(main_figures),
                "coverage": round(share(main_figures), 4),
                "width": round(mean_width(main_figures), 4),
                "metrics": {metric: round(share(found[f"boosting.{metric}"]), 4) for metric in (*BINARY, *REGRESSION)},
                "coverage_of_a_wrong_model": round(share(apart), 4),
                "seconds": round(time.perf_counter() - started, 1),
            }
        )
    )


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

    yield from compared("binary", BINARY, rows(*draw(held_out)), (rows(*draw(*place)) for place in places()))


def valued(held_out: int, seed: int) -> Any:
    """The same for a regression with errors that grow with the prediction."""
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingRegressor

    random = np.random.default_rng(seed)

    def draw(rows: int, shift: float = 0.0) -> tuple[Any, Any]:
        inputs, signal = world(random, rows, shift)
        return inputs, signal + random.normal(size=rows) * np.exp(signal / 4)

    fitted = HistGradientBoostingRegressor(max_iter=60, random_state=seed).fit(*draw(4 * held_out))

    def rows(inputs: Any, truth: Any) -> Any:
        return fitted.predict(inputs), truth, np.zeros(len(truth), bool)

    yield from compared("regression", REGRESSION, rows(*draw(held_out)), (rows(*draw(*place)) for place in places()))


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


def compared(task: Any, metrics: tuple[str, ...], held_out: Any, windows: Any) -> Any:
    from airflow_mlops.metrics.realised import Outcomes, measure
    from airflow_mlops.performance.estimation import collect, estimate
    from airflow_mlops.profiles.calibration import calibrate

    score, truth, right = held_out
    known = calibrate(task, Outcomes(truth, score, right))
    assert known is not None
    for place, (score, truth, right) in zip(places(), windows, strict=True):
        scores = collect([score], known)
        for metric in metrics:
            found = estimate(metric, scores, known, 0.95, 0.5 if task == "binary" else None)
            realised = measure(metric, Outcomes(truth, score, right), 0.95).value
            yield place, metric, found.low <= realised <= found.high, found.high - found.low


if __name__ == "__main__":
    main()
