"""Evidently in a separate virtual environment, for comparison."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

VERSION = "0.7.23"
# Evidently uses functions that pandas 3 has removed.
_PACKAGES = (f"evidently=={VERSION}", "pandas<3", "pyarrow")


def environment() -> Path:
    """The Python of a virtual environment with Evidently, created under ``build/`` if missing."""
    folder = Path("build") / f"evidently-{VERSION}"
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists():
        print(f"Installing Evidently {VERSION} into {folder} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *_PACKAGES], check=True)
        ready.touch()
    return python.absolute()


def drifted(reference: Any, current: Any, texts: list[str], preset: bool = False) -> list[bool]:
    """Which columns of ``current`` Evidently reports as drifted by its default rules.

    :param reference: pandas.DataFrame with the same columns as ``current``
    :param texts: names of the text columns; the others are numeric
    :param preset: use the drift preset; by default only its metrics of columns, which give the same results faster
    """
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift
    from evidently.presets import DataDriftPreset

    definition = DataDefinition(
        numerical_columns=[name for name in reference if name not in texts], categorical_columns=texts
    )
    report = Report([DataDriftPreset()] if preset else [ValueDrift(column=name) for name in reference])
    done = report.run(Dataset.from_pandas(current, definition), Dataset.from_pandas(reference, definition))
    metrics = done.dict()["metrics"]
    return [_says_drift(metric) for metric in metrics if metric["metric_name"].startswith("ValueDrift")]


def _says_drift(metric: dict[str, Any]) -> bool:
    # A small p-value means drift; so does a large distance.
    described = dict(item.split("=", 1) for item in metric["metric_name"].partition("(")[2][:-1].split(","))
    threshold, value = float(described["threshold"]), float(metric["value"])
    return value < threshold if "p_value" in described["method"] else value >= threshold
