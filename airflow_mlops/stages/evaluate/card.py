"""Write the model card of a model version (M. Mitchell et al., "Model Cards for Model Reporting", FAT* 2019).

A Jinja template renders the card as Markdown, with every value escaped. The Markdown is converted to HTML, with raw
HTML disabled, and the HTML is inserted into a template with autoescape.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.numbers import rounded
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.usage import Usage
from airflow_mlops.data.datasets import Manifest
from airflow_mlops.gates.base import Gate, percent
from airflow_mlops.gates.evidence import Measurement
from airflow_mlops.gates.fairness import Fairness
from airflow_mlops.gates.slices import NotWorseOnSlices
from airflow_mlops.metrics.comparison import estimate
from airflow_mlops.metrics.resampling import ROUNDS, ROW_ROUNDS, Resampling
from airflow_mlops.models.explanation import Explanation
from airflow_mlops.registry.records.verdict import CandidateVerdict, GateResult, Refit, Verdict
from airflow_mlops.registry.step_usage import by_step
from airflow_mlops.stages.evaluate.card_spec import Card
from airflow_mlops.stages.evaluate.lineage import LINEAGE

MARKDOWN_FILE, PAGE_FILE = "model_card.md", "model_card.html"
CONFIDENCE = 0.95
FEATURES = 20


Intervals = Mapping[str, tuple[float, float] | None]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The contents of a model card.

    :param stated: purpose, limits and owner of the model, as users have written them
    :param gates: the gates of the verdict, in order
    :param rows: number of held-out rows
    :param intervals: lower and upper end of the 95% confidence interval of each metric; ``None`` if there are too few
        rows
    :param importance: permutation importance of each feature for the verdict's metric; empty if unknown
    :param importance_rows: number of held-out rows on which the importance was measured
    :param measured_on: manifest of the dataset of the held-out rows
    :param trained_on: manifest of the training set; ``None`` if the training set is unknown or no longer exists
    :param parents: name, window and short id of each dataset from which ``measured_on`` and ``trained_on`` were
        created, as one text each, by full id. Datasets that no longer exist are left out
    :param tags: tags of the version's MLflow run
    :param params: parameters of the version's MLflow run
    :param reproducible: whether the MLflow run contains the files that are needed to train the version again
    :param explanation: importances and shape functions of a glass-box model (EBM); ``None`` for other models
    """

    ref: ModelVersionRef
    stated: Card
    contract: ModelContract
    verdict: Verdict
    gates: Sequence[Gate]
    rows: int
    intervals: Intervals
    importance: Mapping[str, float]
    importance_rows: int
    measured_on: Manifest
    trained_on: Manifest | None
    parents: Mapping[str, str]
    tags: Mapping[str, str]
    params: Mapping[str, str]
    reproducible: bool
    explanation: Explanation | None = None

    @property
    def candidate(self) -> CandidateVerdict:
        return self.verdict.for_candidate(self.ref)

    @property
    def outcome(self) -> str:
        return self.verdict.outcome(self.ref)

    @property
    def other_dataset(self) -> bool:
        """Return whether the version was trained on a different dataset than the dataset of the held-out rows."""
        return self.contract.dataset_id != self.measured_on.id

    @property
    def same_held_out(self) -> bool:
        """Return whether the training set of the version is known to have the same held-out rows as ``measured_on``."""
        if self.trained_on is None:
            return False
        part = self.verdict.part
        here, there = (
            ((manifest.details.get("split") or {}).get("row_ids") or {}).get(part)
            for manifest in (self.trained_on, self.measured_on)
        )
        return here is not None and here == there

    @property
    def datasets(self) -> list[tuple[str, Manifest]]:
        if not self.other_dataset:
            return [("Trained and measured on", self.measured_on)]
        trained = [("Trained on", self.trained_on)] if self.trained_on else []
        return [*trained, ("Measured on", self.measured_on)]

    @property
    def class_weight(self) -> str:
        """Return the class weights of the fit (``class_weight`` of TrainOperator); empty if all weights are equal."""
        # A person may have logged a parameter with this name.
        with suppress(ValueError):
            found = json.loads(self.params.get("class_weight", '""'))
            return (
                ", ".join(f"{name}: {weight}" for name, weight in found.items())
                if isinstance(found, dict)
                else str(found)
            )
        return self.params["class_weight"]

    @property
    def slices(self) -> list[GateResult]:
        return self._results(NotWorseOnSlices)

    @property
    def fairness(self) -> list[GateResult]:
        return self._results(Fairness)

    @property
    def features(self) -> list[tuple[str, str, float | None]]:
        """Return name, kind and importance of each feature, the most important feature first."""
        features = [(item.name, item.kind, self.importance.get(item.name)) for item in self.contract.features]
        return sorted(features, key=lambda item: -(item[2] or 0.0))

    @property
    def lineage(self) -> dict[str, str]:
        return {name: self.tags[tag] for tag, name in LINEAGE.items() if self.tags.get(tag)}

    @property
    def used(self) -> dict[str, Usage]:
        """Return the resources that earlier steps used for the version, by name of the step, and their sum."""
        steps = by_step(self.tags)
        return {**steps, "all steps": Usage.total(steps.values())} if len(steps) > 1 else steps

    def _results(self, kind: type[Gate]) -> list[GateResult]:
        named = {gate.name for gate in self.gates if isinstance(gate, kind)}
        return [result for result in self.candidate.gates if result.gate in named]


def intervals(measurement: Measurement, resampling: Resampling) -> Intervals:
    """Compute the two-sided 95% confidence interval of each metric by bootstrapping.

    :class:`airflow_mlops.metrics.comparison.Estimate` describes the method.

    :param resampling: the bootstrap weights of the rows
    :return: lower and upper end of the interval, by metric; ``None`` if the error is unknown, because there are too few rows
        or all resamples are equal
    """
    assert measurement.rows is not None
    one_sided = (1 + CONFIDENCE) / 2
    bounds: dict[str, tuple[float, float] | None] = {}
    for metric in measurement.metrics:
        interval = estimate(metric, measurement.rows, resampling)
        known = 0 < interval.standard_error < float("inf")
        bounds[metric] = (interval.lower(one_sided), interval.upper(one_sided)) if known else None
    return bounds


# The environments are cached, because compiling a template takes longer than rendering it.
@cache
def _markdown_environment() -> Environment:
    # Autoescape is for HTML. In Markdown, ``finalize`` escapes every value.
    environment = Environment(  # noqa: S701
        loader=PackageLoader("airflow_mlops.stages.evaluate"),
        finalize=_markdown,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["command"] = _command
    environment.filters["interval"] = _interval
    return environment


@cache
def _page_environment() -> Environment:
    return Environment(loader=PackageLoader("airflow_mlops.stages.evaluate"), autoescape=True)


def write(folder: Path, facts: Facts, plots: Sequence[Path], explained: Sequence[Path] = ()) -> str:
    """Write the card as Markdown and as HTML into the folder with the plots, and return the first paragraph.

    :param plots: PNG files of the evaluation's plots, in ``folder``
    :param explained: PNG files of the importances and shape functions of a glass-box model, in ``folder``
    :return: the first paragraph of the card, in Markdown
    """
    text = (
        _markdown_environment()
        .get_template("model_card.md.jinja")
        .render(
            facts=facts,
            plots=[plot.name for plot in plots],
            explained=[plot.name for plot in explained],
            now=datetime.now(timezone.utc),
            confidence=percent(CONFIDENCE),
            rounds=ROUNDS,
            row_rounds=ROW_ROUNDS,
            most=FEATURES,
        )
    )
    (folder / MARKDOWN_FILE).write_text(text, encoding="utf-8")
    (folder / PAGE_FILE).write_text(_page(str(facts.ref), text, folder), encoding="utf-8")
    return text.split("\n\n")[1]


def for_refit(folder: Path, ref: ModelVersionRef, refit: Refit) -> str:
    """Convert the model card of a judged version to the card of its refit.

    :param folder: folder with the card and the plots of the judged version; the card is overwritten
    :param ref: the new version
    :return: the first paragraph of the card, in Markdown
    """
    judged = refit.judged
    about = (
        f"{_markdown(ref)} is {_markdown(judged)}, fitted again on {refit.fitted_to} of its training set, including the "
        f"held-out rows. It has no metrics of its own: the metrics, gates and plots below are those of v{judged.version}."
    )
    rows = "".join(
        f"| {_markdown(check.gate)} | {_markdown(check.measured)} | {_markdown(check.asked)} | {_markdown(check.explanation)} |\n"
        for check in refit.checks
    )
    note = (
        f"# {_markdown(ref)}\n\n{about}\n\n| Check | Measured | Limit | Explanation |\n| --- | --- | --- | --- |\n{rows}\n"
        f"This command trains v{ref.version} again and compares the result:\n\n"
        f"    airflow mlops reproduce {_command(ref.model)} {ref.version}\n\n"
    )
    text = note + (folder / MARKDOWN_FILE).read_text(encoding="utf-8").replace("# ", "## The judged version ", 1)
    (folder / MARKDOWN_FILE).write_text(text, encoding="utf-8")
    (folder / PAGE_FILE).write_text(_page(str(ref), text, folder), encoding="utf-8")
    return about


def _markdown(value: Any) -> Any:
    """Return a value as one line of Markdown. Markup, links, images and HTML in the value are escaped."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return ""
    if isinstance(value, float):
        # Rounding errors leave values such as 5.7e-18 instead of 0.
        return rounded(value if abs(value) > 1e-12 else 0)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M} UTC"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    # Some renderers do not support a backslash before an angle bracket, so angle brackets become HTML entities.
    text = html.escape(" ".join(str(value).split()), quote=False)
    text = re.sub(r"[\\`*\[\]|~#$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", text)
    # At the beginning, these characters would start a list or a heading.
    return re.sub(r"^([-+=](?!\d)|\d{1,9}[.)](?=\s|$))", lambda found: f"{found[0][:-1]}\\{found[0][-1]}", text)


def _command(word: str) -> Markup:
    """Quote one word of a shell command. The command is in a code block, where Markdown needs no escaping."""
    return Markup(shlex.quote(" ".join(word.split())))  # noqa: S704


def _interval(bounds: tuple[float | None, float | None] | None) -> str:
    if bounds is None or bounds == (None, None):
        return ""
    low, high = ("-" if bound is None else rounded(bound) for bound in bounds)
    return f"{low} to {high}"


def _page(title: str, text: str, folder: Path) -> str:
    """Convert the Markdown of a card to one HTML page without external files."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(text)
    for token in tokens:
        for child in token.children or ():
            if child.type == "image":
                picture = (folder / str(child.attrs["src"])).read_bytes()
                child.attrs["src"] = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    body = Markup(reader.renderer.render(tokens, reader.options, {}))  # noqa: S704
    return _page_environment().get_template("model_card.html.jinja").render(title=title, body=body)
