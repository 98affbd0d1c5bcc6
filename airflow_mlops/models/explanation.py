"""The explanation of a glass-box model."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from airflow_mlops.core.base import Model

# Where the training's MLflow run stores the explanation.
FOLDER, FILE = "explanation", "explanation.json"


class Axis(Model):
    """The n bins into which a term divides one of its features.

    :param edges: for a number: the n + 1 edges, ascending, from the smallest training value to the largest. A value equal
        to an edge belongs to the bin above it
    :param texts: for text: the texts in each bin
    """

    feature: str
    edges: list[float] = Field(default_factory=list)
    texts: list[list[str]] = Field(default_factory=list)


class Curve(Model):
    """A term of one feature.

    :param scores: shape (k, n): the contribution of each bin to each of the model's k scores
    :param errors: shape (k, n): the standard deviation of the scores over the models that were averaged
    :param rows: shape (n,): the (weighted) number of training rows in each bin
    :param missing: shape (k,): the contribution of a missing value; ``None`` if the training data had none
    """

    axis: Axis
    scores: list[list[float]]
    errors: list[list[float]]
    rows: list[float]
    missing: list[float] | None = None


class Surface(Model):
    """A term of two features.

    :param scores: shape (n of ``first``, n of ``second``): the contribution of each pair of bins to the score
    """

    first: Axis
    second: Axis
    scores: list[list[float]]


class Term(Model):
    """One term of the additive model.

    Terms of little importance, and terms with too many bins to plot, have neither a curve nor a surface.

    :param importance: mean absolute score over the training rows and over the classes
    :param curve: for terms of one feature
    :param surface: for terms of two features, if the model has only one score
    """

    name: str
    features: list[str]
    importance: float
    curve: Curve | None = None
    surface: Surface | None = None


class Explanation(Model):
    """An additive model: the sum of an intercept and of terms, each a function of one or a few features.

    :param unit: unit of the scores
    :param outputs: names of the k scores: the classes, or a single name
    :param intercept: shape (k,)
    :param terms: sorted by importance, largest first
    """

    unit: str
    outputs: list[Any]
    intercept: list[float]
    terms: list[Term]
