"""The terms of a glass-box model (EBM) as stored data: importances and shape functions."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from airflow_mlops.core.base import Model

# Where the training's MLflow run stores the explanation.
FOLDER, FILE = "explanation", "explanation.json"


class Axis(Model):
    """The n bins into which a term divides one of its features.

    :param feature: name of the feature
    :param edges: numeric feature: the n + 1 ascending edges of the bins, from the smallest to the largest training
        value. A value equal to an edge belongs to the bin above that edge
    :param texts: text feature: a list of the values in each bin
    """

    feature: str
    edges: list[float] = Field(default_factory=list)
    texts: list[list[str]] = Field(default_factory=list)


class Curve(Model):
    """The shape function of a term of one feature.

    :param axis: the bins of the feature
    :param scores: contribution of each of the n bins to each of the k scores of the model, shape (k, n)
    :param errors: standard deviation of ``scores`` over the bagged models of the EBM, shape (k, n)
    :param rows: (weighted) number of training rows in each bin, shape (n,)
    :param missing: contribution of a null to each score, shape (k,); ``None`` if the training data contained no null
    """

    axis: Axis
    scores: list[list[float]]
    errors: list[list[float]]
    rows: list[float]
    missing: list[float] | None = None


class Surface(Model):
    """The shape function of a term of two features.

    :param first: bins of the first feature
    :param second: bins of the second feature
    :param scores: contribution of each pair of bins to the score, shape (bins of ``first``, bins of ``second``)
    """

    first: Axis
    second: Axis
    scores: list[list[float]]


class Term(Model):
    """One term of the additive model, with its importance and its shape function.

    Terms of little importance, and terms with too many bins to plot, have neither a curve nor a surface.

    :param name: name of the term
    :param features: names of its features
    :param importance: mean absolute contribution over the training rows and over the classes
    :param curve: shape function of a term of one feature; otherwise ``None``
    :param surface: shape function of a term of two features, if the model has only one score; otherwise ``None``
    """

    name: str
    features: list[str]
    importance: float
    curve: Curve | None = None
    surface: Surface | None = None


class Explanation(Model):
    """The importances and shape functions of a glass-box model (EBM).

    The model is the sum of an intercept and of terms. Each term is a function of one or a few features.

    :param unit: unit of the scores, such as ``log-odds of delayed = 1``
    :param outputs: names of the k scores: the classes of a multiclass model, or a single name for any other model
    :param intercept: the intercept of each score, shape (k,)
    :param terms: the terms, sorted by importance in descending order
    """

    unit: str
    outputs: list[Any]
    intercept: list[float]
    terms: list[Term]
