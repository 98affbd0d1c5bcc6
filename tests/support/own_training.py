"""Training functions as users write them, for FunctionTrainer."""

from __future__ import annotations

from typing import Any


def weighted(X: Any, y: Any, *, params: dict[str, Any], seed: int, sample_weight: Any = None) -> Any:  # noqa: N803
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    return pipeline.fit(X, y, logisticregression__sample_weight=sample_weight)


def unweighted(X: Any, y: Any, *, params: dict[str, Any], seed: int) -> Any:  # noqa: N803
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression().fit(X, y)
