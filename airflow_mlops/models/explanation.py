"""What a model that can be read says of itself."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from airflow_mlops.core.base import Model

# In the MLflow run of the training.
FOLDER, FILE = "explanation", "explanation.json"


class Axis(Model):
    """The n parts into which a term cuts one of its features.

    :param edges: of a number: n + 1 of them, ascending, from the smallest value in training to the largest. A value that
        equals an edge lies above it
    :param texts: of a text: those of each part
    """

    feature: str
    edges: list[float] = Field(default_factory=list)
    texts: list[list[str]] = Field(default_factory=list)


class Curve(Model):
    """A term of one feature.

    :param scores: shape (k, n): what each part adds to each of the model's k scores
    :param errors: shape (k, n): their standard deviation over the models that were averaged
    :param rows: shape (n,): how many rows, by weight, lay in each part in training
    :param missing: shape (k,): what a missing value adds; ``None`` if there was none in training
    """

    axis: Axis
    scores: list[list[float]]
    errors: list[list[float]]
    rows: list[float]
    missing: list[float] | None = None


class Surface(Model):
    """A term of two features.

    :param scores: shape (n of ``first``, n of ``second``): what each pair of parts adds to the score
    """

    first: Axis
    second: Axis
    scores: list[list[float]]


class Term(Model):
    """One of the functions whose sum the model is.

    :param importance: mean of the absolute score over the rows in training, and over the classes
    :param curve: ``None`` unless it is of one feature
    :param surface: ``None`` unless it is of two features and the model has one score; both are ``None`` for terms of
        little importance, or of more parts than anybody could look at
    """

    name: str
    features: list[str]
    importance: float
    curve: Curve | None = None
    surface: Surface | None = None


class Explanation(Model):
    """A glass box: a sum of terms, each a function of one feature or a few.

    :param unit: of the scores
    :param outputs: what the k scores are for: the classes, or one name
    :param intercept: shape (k,)
    :param terms: what matters most comes first
    """

    unit: str
    outputs: list[Any]
    intercept: list[float]
    terms: list[Term]
