"""The false-alarm rate and the power of the drift tests.

``python -m benchmarks.false_alarms [--windows N] [--evidently-windows N] [--cores N]``. Every seeded window has 50 to
100,000 rows and 10 to 100 features (numbers of four shapes, every fifth feature text) from the same distributions as the
10,000 rows of its reference. Then one feature is shifted by 0.1 standard deviations. The comparison has SciPy's
Kolmogorov-Smirnov (numbers) and chi-square tests on the rows, each at 5% and adjusted by Benjamini and Hochberg at a level
with the same false-alarm rate as our tests; and Evidently with its default rules, in a separate environment, on the first
of the same windows.

A second table counts verdicts of the default policy on windows without drift, with harmless drift (the inputs move and the
relation to the label stays) and with harmful drift (the model is wrong about the new inputs), with and without labels: how
often the drift tests alarm, and how often the verdict is *watch* or *retrain*. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

WINDOWS, EVIDENTLY_WINDOWS, VERDICT_WINDOWS = 1_000, 40, 200
REFERENCE = 10_000
ROWS, FEATURES = (50, 100_000), (10, 100)
SHIFT = 0.1
BANDS = ((50, 500), (500, 5_000), (5_000, 100_001))
_LETTERS, _SHARES = list("abcdefgh"), [0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.015, 0.005]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=WINDOWS)
    parser.add_argument("--evidently-windows", type=int, default=EVIDENTLY_WINDOWS, help="0 leaves Evidently out")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--evidently", type=int, metavar="WINDOW", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.evidently is not None:
        print(json.dumps(by_evidently(arguments.evidently)))
    else:
        compare(arguments.windows, min(arguments.evidently_windows, arguments.windows), arguments.cores)


def compare(windows: int, evidently_windows: int, cores: int) -> None:
    start = time.perf_counter()
    with ProcessPoolExecutor(cores) as pool:
        found = list(pool.map(judge, range(windows), chunksize=4))
    figures = {"benchmark": "false_alarms", "windows": windows, "shift": SHIFT, **rates(found)}
    figures["seconds"] = round(time.perf_counter() - start, 1)
    print(f"{windows:,} windows of {ROWS[0]} to {ROWS[1]:,} rows and {FEATURES[0]} to {FEATURES[1]} features:")
    print(f"{'':44}{'all':>8}" + "".join(f"{f'{a:,} to {b - 1:,}':>18}" for a, b in BANDS) + "  rows")
    _row("alarms without drift, ours", found, lambda item: item["alarm"])
    _row("  SciPy's tests, each at 5%", found, lambda item: min(item["plain"]) <= 0.05)
    level = figures["ks_level"]
    _row(f"  SciPy's, corrected, at {level:.3f}", found, lambda item: item["ks"] <= level)
    _row(f"shift of {SHIFT} found, ours", found, lambda item: item["found"])
    _row(f"  SciPy's, corrected, at {level:.3f}", found, lambda item: item["ks_shifted"] <= level)
    if evidently_windows:
        figures |= beside(evidently_windows, cores)
    figures["verdicts"] = verdicts(min(windows, VERDICT_WINDOWS), cores)
    print(json.dumps(figures))


def _row(name: str, found: list[dict[str, Any]], of: Any) -> None:
    parts = [[of(item) for item in found if low <= item["rows"] < high] for low, high in BANDS]
    shares = [f"{sum(part) / len(part):.1%}" if part else "-" for part in parts]
    overall = sum(map(sum, parts)) / len(found)
    print(f"{name:44}{overall:8.1%}" + "".join(f"{share:>18}" for share in shares), flush=True)


def rates(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares of windows with a false alarm and with a detected shift: our tests, and SciPy's at the same false-alarm rate."""
    alarms = sum(item["alarm"] for item in found)
    # At this level, SciPy's tests and ours have the same number of false alarms.
    level = sorted(item["ks"] for item in found)[alarms - 1] if alarms else 0.0
    share = len(found)
    return {
        "false_alarm_rate": round(alarms / share, 4),
        "power": round(sum(item["found"] for item in found) / share, 4),
        "ks_power": round(sum(item["ks_shifted"] <= level for item in found) / share, 4),
        "ks_level": round(level, 4),
        "uncorrected_false_alarm_rate": round(sum(min(item["plain"]) <= 0.05 for item in found) / share, 4),
    }


WORLDS = ("none", "harmless", "harmful")


def verdicts(windows: int, cores: int) -> dict[str, dict[str, float]]:
    """Shares of windows of each world with an alarm of the drift tests and with each decision; prints them as a table."""
    print(
        f"Verdicts on {windows} windows of each kind, default policy and, without labels, retrain_on=estimated_performance:"
    )
    print(f"{'':44}{'drift':>8}{'watch':>8}{'retrain':>9}{'watch, no labels':>18}{'retrain, no labels':>20}")
    figures = {}
    with ProcessPoolExecutor(cores) as pool:
        for world in WORLDS:
            found = list(pool.map(partial(judged, world), range(windows), chunksize=4))
            shares = {name: round(sum(item[name] for item in found) / windows, 4) for name in found[0]}
            figures[world] = shares
            cells = "".join(
                f"{value:>{width}.1%}" for value, width in zip(shares.values(), (8, 8, 9, 18, 20), strict=True)
            )
            print(f"{f'drift: {world}':44}{cells}", flush=True)
    return figures


def judged(world: str, window: int) -> dict[str, bool]:
    """The decisions about one window of 1,000 to 10,000 rows of a logistic model of five features.

    - ``none``: nothing changed.
    - ``harmless``: the features of the model moved by up to half a standard deviation, and the model is right about them.
    - ``harmful``: they moved, and the effect of the most important one on the label became weaker or vanished.
    """
    import numpy as np

    from airflow_mlops.policy.verdict import decide

    random = np.random.default_rng([window, WORLDS.index(world)])
    rows = int(np.exp(random.uniform(np.log(1_000), np.log(10_000))))
    moved = 0.0 if world == "none" else random.uniform(0.2, 0.5)
    faded = random.uniform(0, 0.4) if world == "harmful" else 1.0
    labelled = findings(window, random, rows, moved, faded, {})
    unlabelled = labelled.model_copy(
        update={
            "policy": labelled.policy.model_copy(update={"retrain_on": ("estimated_performance",)}),
            "performance": None, "unmeasured": "there are no labels", "labelled": 0, "coverage": 0.0, "label": None,
        }
    )  # fmt: skip
    with_labels, without = decide(labelled).decision, decide(unlabelled).decision
    parts = [*labelled.features, *([labelled.prediction] if labelled.prediction else [])]
    return {
        "drift": any(part.drifted for part in parts),
        "watch": with_labels == "watch",
        "retrain": with_labels == "retrain",
        "watch_without_labels": without == "watch",
        "retrain_without_labels": without == "retrain",
    }


_WEIGHTS = (1.5, 1.0, 0.5, 0.25, 0.0)


def sample(random: Any, rows: int, moved: float, faded: float) -> tuple[Any, Any, Any]:
    """Features of shape (rows, 5), the labels, and the scores of a model that knows the relation at training."""
    import numpy as np

    features = random.normal(size=(rows, len(_WEIGHTS))) + moved * np.array([1, -1, 1, 1, 1])
    weights = np.array(_WEIGHTS)
    now = weights * np.array([faded, 1, 1, 1, 1])
    label = random.random(rows) < 1 / (1 + np.exp(-(features @ now - 1)))
    return features, label, 1 / (1 + np.exp(-(features @ weights - 1)))


def findings(window: int, random: Any, rows: int, moved: float, faded: float, policy: dict[str, Any]) -> Any:
    """The findings about a window, measured as MonitorOperator does: drift, realised and estimated performance."""
    from datetime import datetime, timezone

    import numpy as np

    from airflow_mlops.core.references import ModelVersionRef
    from airflow_mlops.drift import univariate as drift
    from airflow_mlops.metrics.realised import Outcomes, measure
    from airflow_mlops.performance import estimation
    from airflow_mlops.performance.findings import Performance
    from airflow_mlops.policy.findings import Findings
    from airflow_mlops.policy.spec import Policy
    from airflow_mlops.profiles.calibration import calibrate

    settings = Policy(**policy)
    past = sample(np.random.default_rng([window, 9]), REFERENCE, 0.0, 1.0)
    present = sample(random, rows, moved, faded)
    auc = []
    for _, label, score in (past, present):
        auc.append(measure("roc_auc", Outcomes(label, score, (score >= 0.5) == label), settings.confidence, "binary"))
    reference, realised = auc
    calibration = calibrate("binary", Outcomes(past[1], past[2], (past[2] >= 0.5) == past[1]))
    assert calibration is not None
    estimate = estimation.estimate(
        "roc_auc", estimation.collect([present[2]], calibration), calibration, settings.confidence, 0.5
    )
    before, now = (profiled([*features.T, score]) for features, _, score in (past, present))
    *measured, scores = drift.decide(drift.measure(before, now, settings), settings)
    total = sum(_WEIGHTS)
    features = [
        item.model_copy(update={"importance": weight / total}) for item, weight in zip(measured, _WEIGHTS, strict=True)
    ]
    version = ModelVersionRef(model="simulated", version=1, run_id="r")

    def performance(found: Any) -> Performance:
        return Performance(
            metric="roc_auc", value=found.value, low=found.low, high=found.high, reference=reference.value, labels=rows
        )

    return Findings(
        model="simulated", window="2013-04", created=datetime(2013, 5, 1, tzinfo=timezone.utc), policy=settings,
        champion=version, scored_by=version, rows=rows, labelled=rows, coverage=1.0, performance=performance(realised),
        estimated=performance(estimate), prediction=scores, features=features,
    )  # fmt: skip


def plan(window: int, most_rows: int, most_features: int) -> tuple[int, int]:
    """The rows and features of a window."""
    import numpy as np

    random = np.random.default_rng([window, 0])
    rows = round(math.exp(random.uniform(math.log(ROWS[0]), math.log(most_rows))))
    return rows, int(random.integers(FEATURES[0], most_features + 1))


def column(window: int, feature: int, part: int, rows: int) -> Any:
    """The values of a feature: the first is normal with a standard deviation of 1, every fifth is text.

    :param part: 0 for the reference, 1 for the window
    """
    import numpy as np

    random = np.random.default_rng([window, feature, part, 1])
    if feature % 5 == 4:
        return np.array(_LETTERS)[random.choice(len(_LETTERS), rows, p=_SHARES)]
    shape = (
        lambda: random.normal(size=rows),
        lambda: random.lognormal(size=rows),
        lambda: random.poisson(2, rows).astype(float),
        lambda: np.where(random.random(rows) < 0.3, 0.0, random.exponential(size=rows)),
    )
    return shape[feature % 5]()


def judge(window: int, most_rows: int = ROWS[1], most_features: int = FEATURES[1]) -> dict[str, Any]:
    """Our tests and SciPy's on a window without drift, and on the same window with its first feature shifted."""
    from scipy import stats

    from airflow_mlops.drift import univariate as drift
    from airflow_mlops.policy.spec import Policy

    rows, features = plan(window, most_rows, most_features)
    before, now = ([column(window, feature, part, size) for feature in range(features)] for part, size in
                   enumerate((REFERENCE, rows)))  # fmt: skip
    shifted = now[0] + SHIFT
    policy = Policy()
    measured = drift.measure(profiled(before), profiled(now), policy)
    moved = drift.measure(profiled(before[:1]), profiled([shifted]), policy)
    plain = [by_scipy(*pair) for pair in zip(before, now, strict=True)]
    return {
        "rows": rows,
        "alarm": any(item.drifted for item in drift.decide(measured, policy)),
        "found": drift.decide([*moved, *measured[1:]], policy)[0].drifted,
        "plain": plain,
        "ks": float(stats.false_discovery_control(plain).min()),
        "ks_shifted": float(stats.false_discovery_control([by_scipy(before[0], shifted), *plain[1:]])[0]),
    }


def profiled(columns: list[Any]) -> Any:
    import pyarrow as pa

    from airflow_mlops.profiles.profile import profile

    return profile(pa.table({f"f{index}": values for index, values in enumerate(columns)}).to_batches())


def by_scipy(before: Any, now: Any) -> float:
    """The p-value of the plain test on the rows."""
    import numpy as np
    from scipy import stats

    if before.dtype.kind == "f":
        return float(stats.ks_2samp(before, now, method="asymp").pvalue)
    known, codes = np.unique(np.concatenate([before, now]), return_inverse=True)
    counts = [np.bincount(part, minlength=len(known)) for part in np.split(codes, [len(before)])]
    return float(stats.chi2_contingency(counts, correction=False).pvalue)


def beside(windows: int, cores: int) -> dict[str, Any]:
    """Evidently on the first windows, each in a process of a separate environment."""
    from benchmarks.evidently import VERSION, environment

    python = environment()
    start = time.perf_counter()
    with ProcessPoolExecutor(cores) as pool:
        found = list(pool.map(partial(_child, str(python)), range(windows)))
    _row(f"  Evidently {VERSION} on {windows} of them, any column", found, lambda item: item["drifted"] > 0)
    _row("  Evidently, half of the columns or more", found, lambda item: item["drifted"] >= item["features"] / 2)
    return {
        "evidently_false_alarm_rate": round(sum(item["drifted"] > 0 for item in found) / windows, 4),
        "evidently_windows": windows,
        "evidently_seconds": round(time.perf_counter() - start, 1),
    }


def _child(python: str, window: int) -> dict[str, Any]:
    command = [python, "-W", "ignore", "-m", "benchmarks.false_alarms", "--evidently", str(window)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])


def by_evidently(window: int) -> dict[str, Any]:
    """The number of drifted columns of a window according to Evidently."""
    import pandas as pd

    from benchmarks.evidently import drifted

    rows, features = plan(window, ROWS[1], FEATURES[1])
    before, now = (
        pd.DataFrame({f"f{feature}": column(window, feature, part, size) for feature in range(features)})
        for part, size in enumerate((REFERENCE, rows))
    )
    texts = [f"f{feature}" for feature in range(features) if feature % 5 == 4]
    return {"rows": rows, "features": features, "drifted": sum(drifted(before, now, texts))}


if __name__ == "__main__":
    main()
