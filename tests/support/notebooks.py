"""Jupyter notebooks, written by tests."""

from __future__ import annotations

import json
from pathlib import Path

PARAMETERS = "train_path = None\ncontract = None\nseed = 0\n"

TRAIN = """
import json
import mlflow.sklearn
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

about = json.loads(contract)
rows = pd.read_parquet(train_path)
X, y = rows[[feature["name"] for feature in about["features"]]], rows[about["label"]]
model = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(C=C, random_state=seed)).fit(X, y)
"""

# Without pip_requirements, MLflow loads the model in another process to find them, which takes half a minute.
LOG = """mlflow.sklearn.log_model(
    model, name="model", pip_requirements=["scikit-learn"], skops_trusted_types=["numpy.dtype"]
)
"""


def write(file: Path, *cells: str) -> str:
    """Write a notebook of code cells, of which the first has the tag ``parameters``, and return its path."""
    content = {
        "cells": [
            {
                "cell_type": "code",
                "id": f"cell-{place}",
                "metadata": {} if place else {"tags": ["parameters"]},
                "source": source.splitlines(keepends=True),
                "outputs": [],
                "execution_count": None,
            }
            for place, source in enumerate(cells)
        ],
        # No such kernel exists. The notebook runs in the Python of the step.
        "metadata": {"kernelspec": {"name": "other", "display_name": "Other", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    file.write_text(json.dumps(content))
    return str(file)
