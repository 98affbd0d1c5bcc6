"""An evaluation logs a card for every candidate to a real MLflow, with the verdict's numbers and without foreign HTML."""

from __future__ import annotations

import os
import re
import uuid
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from markdown_it import MarkdownIt

from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.comparison import estimate
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import prepare
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import card as model_card
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from tests.support.candidates import held_out, register, training_set

GOOD, WEAK = (2, 0), (1, 2)
EVIL = "<script>alert(1)</script> <img src=x onerror=alert(1)> [x](javascript:alert(1)) | ![y](http://evil) *a* `b` # c"


@pytest.fixture
def context(tmp_path):
    return StepContext(store=ArtifactStore(f"file://{tmp_path}/store"))


@pytest.fixture
def make(client, tmp_path):
    model = f"delays_{uuid.uuid4().hex[:8]}"

    def make(dataset, weights, **options):
        return register(client, tmp_path / uuid.uuid4().hex, dataset, weights, **{"model": model, **options})

    return make


class Page(HTMLParser):
    """The tags, attributes, addresses and text of an HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [value for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data):
        self.text += data


def cards(client, ref, folder) -> tuple[str, Page]:
    path = Path(client.download_artifacts(ref.run_id, "evaluation", str(folder)))
    return (path / "model_card.md").read_text(), Page((path / "model_card.html").read_text())


def rows_of(markdown: str) -> dict[str, list[str]]:
    """The rows of all tables, by their first cell."""
    found, cells = {}, []
    for token in MarkdownIt("commonmark").enable("table").parse(markdown):
        if token.type == "tr_open":
            cells = []
        elif token.type == "inline":
            cells.append("".join(child.content for child in token.children))
        elif token.type == "tr_close" and cells:
            found[cells[0]] = cells[1:]
    return found


@pytest.mark.plots
def test_each_candidate_has_a_card_with_the_numbers_of_the_verdict(client, context, make, tmp_path):
    dataset = training_set(context.store)
    champion, good, weak = make(dataset, (2, 1)), make(dataset, GOOD), make(dataset, WEAK)
    client.set_registered_model_alias(champion.model, "champion", str(champion.version))
    client.log_param(good.run_id, "max_depth", 7)
    client.set_tag(good.run_id, "mlops.dag_id", "flights_train")
    used = {
        "seconds": 12.5,
        "cpu_seconds": 20,
        "peak_memory_mb": 1234.5,
        "rows": 600,
        "read_bytes": 1,
        "written_bytes": 2,
    }
    for name, value in used.items():
        client.set_tag(good.run_id, f"mlops.usage.train.{name}", str(value))
        client.set_tag(good.run_id, f"mlops.usage.refit.{name}", str(value))
    client.set_tag(good.run_id, "mlops.usage.search.seconds", "a minute")
    client.log_dict(good.run_id, {}, "training.json")
    gates = [
        {"metric": "log_loss", "slices": ["wind"], "not_worse_than_champion_by": 0.05},
        {"fairness": "equalized_odds", "sensitive": "wind", "max_difference": 0.2},
    ]
    said = {"purpose": "Warn crews of late flights.", "limits": "Not for freight.", "owner": "Ada"}
    spec = EvaluateSpec(candidates=[good, weak], gates=gates, card=said)
    verdict = evaluate.run(spec, context).verdict
    manifest = open_dataset(context.store, dataset).manifest

    for ref, outcome in ((good, "won"), (weak, "failed")):
        markdown, page = cards(client, ref, tmp_path / str(ref.version))
        found, table = verdict.for_candidate(ref), rows_of(markdown)
        for name, value in found.metrics.items():
            values = (value, verdict.champion_metrics[name], verdict.baseline_metrics[name])
            # A remainder of rounding, as in the baseline's calibration error, is shown as 0.
            shown = [f"{number if abs(number) > 1e-12 else 0:.4g}" for number in values]
            assert [cell for cell in table[name] if " to " not in cell][:3] == shown
            low, high = map(float, table[name][1].split(" to "))
            assert low < value < high
            assert found.intervals[name] == pytest.approx((low, high), abs=1e-12, rel=1e-3)
        for gate in found.gates:
            state = "passed" if gate.passed else "failed"
            measured, asked = ("" if number is None else f"{number:.4g}" for number in (gate.measured, gate.asked))
            assert table[gate.gate] == [measured, asked, state, gate.explanation]
        for part in found.gates[0].slices:
            assert table[part.name][:2] == [f"{part.rows:,}", f"{part.candidate:.4g}"]
            assert table[part.name][-1] == part.state
        assert table["Evaluation"] == [f"{outcome}: {found.reason}"]
        assert table["Owner"] == ["Ada"]
        assert table["SHA-256"] == [manifest.id]
        assert table["test"][-1] == next(file.sha256 for file in manifest.files if file.part == "test")
        text = " ".join(page.text.split())
        for sentence in (
            "Purpose: Warn crews",
            "Not for freight.",
            manifest.id,
            found.gates[1].explanation,
            found.reason,
        ):
            assert sentence in text
        assert f"airflow mlops ledger {ref.model}" in text
        assert "table" in page.tags
        assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
        assert len(page.addresses) == 5
        description = client.get_model_version(ref.model, str(ref.version)).description
        assert description == markdown.split("\n\n")[1]
        assert f"its roc_auc is {found.metrics['roc_auc']:.4g} (95% interval {table['roc_auc'][1]})." in description

    markdown, _ = cards(client, good, tmp_path / "again")
    table = rows_of(markdown)
    assert (table["max_depth"], table["DAG"]) == (["7"], ["flights_train"])
    # Time, CPU time, no GPU, memory, rows, rows per second, MB. What cannot be read is left out.
    assert table["train"] == ["12.5", "20.0", "", "1,234", "600", "48", "0.0", "0.0"]
    assert table["all steps"] == ["25.0", "40.0", "", "1,234", "", "", "0.0", "0.0"]
    assert "search" not in table
    assert f"    airflow mlops reproduce {good.model} {good.version}\n" in markdown
    assert float(table["distance"][-1]) > 0.2 > float(table["wind"][-1])
    assert "does not record how the version was trained" in cards(client, weak, tmp_path / "weak")[0]


def test_a_card_shows_the_metric_of_each_held_out_window(client, context, make, tmp_path):
    rows = held_out()
    hours = pa.array(range(rows.num_rows), pa.int64())
    times = pc.multiply(hours, 3_600_000_000).cast(pa.timestamp("us", "UTC"))
    half = rows.num_rows // 2 // 24 * 24
    edges = [datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(hours=hour) for hour in (0, half, rows.num_rows)]
    windows = [
        {"start": edges[0].isoformat(), "end": edges[1].isoformat(), "rows": half},
        {"start": edges[1].isoformat(), "end": edges[2].isoformat(), "rows": rows.num_rows - half},
    ]
    split = {"method": "time", "windows": windows}
    test = rows.append_column("at", times)
    dataset = training_set(context.store, test=test, parts=("test",), timestamp="at", split=split)
    champion, good = make(dataset, WEAK), make(dataset, GOOD)
    client.set_registered_model_alias(champion.model, "champion", str(champion.version))
    verdict = evaluate.run(EvaluateSpec(candidates=[good]), context).verdict
    assert [window.rows for window in verdict.windows] == [half, rows.num_rows - half]
    table = rows_of(cards(client, good, tmp_path / "windows")[0])
    for window, start in zip(verdict.windows, edges[:2], strict=True):
        value = window.candidates[good.version]
        assert window.champion.value < value.value
        shown = [
            f"{window.rows:,}",
            f"{value.value:.4g}",
            f"{value.low:.4g} to {value.high:.4g}",
            f"{window.champion.value:.4g}",
        ]
        assert table[f"{start:%Y-%m-%d %H:%M} UTC"][1:] == shown


def test_the_intervals_are_those_of_the_bootstrap(client, context, make, tmp_path):
    dataset = training_set(context.store, "regression")
    good = make(dataset, GOOD, task="regression")
    evaluate.run(EvaluateSpec(candidates=[good]), context)
    table = held_out("regression")
    value = 2 * table["distance"].to_numpy()
    rows = prepare("regression", table["label"].to_numpy(), value, value, None, [])
    shown = rows_of(cards(client, good, tmp_path / "card")[0])
    for metric in ("rmse", "mae", "r2"):
        known = estimate(metric, rows, Resampling(len(rows)))
        assert shown[metric][1] == f"{known.lower(0.975):.4g} to {known.upper(0.975):.4g}"


def test_missing_facts_are_left_out_of_the_card(client, context, make, tmp_path):
    good = make(training_set(context.store), GOOD)
    evaluate.run(EvaluateSpec(candidates=[good]), context)
    markdown, _ = cards(client, good, tmp_path / "card")
    for heading in ("Purpose", "## Limits", "Owner", "champion v", "### Parameters", "Time window"):
        assert heading not in markdown
    assert markdown.count("Not measured: no gate requires it.") == 2
    assert "None" not in markdown
    assert "{" not in markdown


def test_a_description_that_a_person_wrote_is_kept(client, context, make):
    good = make(training_set(context.store), GOOD)
    client.update_model_version(good.model, str(good.version), "Mine.")
    evaluate.run(EvaluateSpec(candidates=[good]), context)
    assert client.get_model_version(good.model, str(good.version)).description == "Mine."


def test_the_card_names_the_training_set_if_another_dataset_was_measured_on(client, context, make, tmp_path):
    first = training_set(context.store)
    absent = first.model_copy(update={"id": "1" * 64})
    with DatasetWriter(context.store, "later") as writer:
        writer.write(held_out(seed=3), "test")
        details = {"label": "label", "task": "binary", "features": ["distance", "wind"]}
        window = Window.model_validate("2013-04")
        later, _ = writer.commit(
            details=details, window=window, owner="Grace", description="April.", parents=[first, absent]
        )
    good, orphan = make(first, GOOD), make(first.model_copy(update={"id": "0" * 64}), GOOD)
    evaluate.run(EvaluateSpec(candidates=[good, orphan], dataset=later.ref), context)
    markdown, _ = cards(client, good, tmp_path / "card")
    assert markdown.index(first.id) < markdown.index(later.id)
    table = rows_of(markdown)
    assert (table["Time window"], table["Owner of the data"]) == (
        ["2013-04-01T00:00:00Z/2013-05-01T00:00:00Z"], ["Grace"],
    )  # fmt: skip
    assert f"| Created from | delays_training snapshot ({first.id[:12]}) |" in markdown
    assert f"| Created from | {absent.id} |" in markdown
    assert "held-out rows of later (2013-04) its roc_auc is" in markdown
    assert "trained on another dataset" in markdown
    assert (
        f"delays_training ({'0' * 64}) no longer exists in the artifact store."
        in cards(client, orphan, tmp_path / "orphan")[0]
    )


@pytest.mark.plots
def test_hostile_text_is_shown_and_inert(client, context, make, tmp_path):
    test = held_out().append_column(EVIL, pa.array([EVIL, "b"] * 500))
    with DatasetWriter(context.store, "hostile") as writer:
        writer.write(test, "test")
        details = {"label": "label", "task": "binary", "features": ["distance", "wind"]}
        manifest, _ = writer.commit(details=details, owner=EVIL, description=f"# {EVIL}")
    model = f"evil & `x` <b>{uuid.uuid4().hex[:8]}"
    champion, good = make(manifest.ref, (2, 1), model=model), make(manifest.ref, GOOD, model=model)
    client.set_registered_model_alias(model, "champion", str(champion.version))
    client.log_param(good.run_id, "text", EVIL)
    client.set_tag(good.run_id, "mlops.trainer", EVIL)
    gates = [
        {"metric": "log_loss", "slices": [EVIL], "not_worse_than_champion_by": 0.5},
        {"fairness": "equalized_odds", "sensitive": EVIL, "max_difference": 1},
    ]
    limits = [EVIL, "# Heading", "- item", "1. one", "a\n\n## b", "---", "> quote", "    code", "<!-- gone -->", "&lt;"]
    said = {"purpose": f"{EVIL}\n\n<h1>", "limits": limits, "owner": EVIL}
    evaluate.run(EvaluateSpec(candidates=[good], gates=gates, card=said), context)

    markdown, page = cards(client, good, tmp_path / "card")
    plain = tmp_path / "plain"
    evaluate.run(EvaluateSpec(candidates=[good], card={"purpose": "x", "limits": ["y"]}), context)
    _, harmless = cards(client, good, plain)
    allowed = set(harmless.tags)
    assert set(page.tags) <= allowed
    assert page.attributes <= harmless.attributes
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    text = " ".join(page.text.split())
    # EVIL is in the purpose, a limit, two owners, the data's description, a parameter, the trainer, gates, slices and
    # groups.
    assert text.count(EVIL) >= 10
    for limit in limits:
        assert " ".join(limit.split()) in text
    assert page.tags.count("li") == len(limits) + 1
    assert page.tags.count("h1") == 1
    # A Markdown renderer that passes HTML through finds no HTML.
    raw = Page(MarkdownIt("commonmark", {"html": True}).enable(["table"]).render(markdown))
    assert set(raw.tags) <= allowed
    assert not re.search(r"<[a-zA-Z/!]", re.sub(r"(?m)^    .*$", "", markdown))
    assert raw.tags.count("a") == 0


def test_a_long_purpose_is_shortened_for_mlflow(client, context, make):
    good = make(training_set(context.store), GOOD)
    evaluate.run(EvaluateSpec(candidates=[good], card={"purpose": "many words " * 1_000}), context)
    assert 4_900 < len(client.get_model_version(good.model, str(good.version)).description) <= 5_000


@pytest.mark.parametrize("text", ["roc_auc at least 0.6", "2013-04", "-0.5", "a_b", "x: y, (z)", "Grüße ✓"])
def test_ordinary_text_is_not_escaped(text):
    assert model_card._markdown(text) == text


DAG = """
from airflow.sdk import DAG
from airflow_mlops.operators import EvaluateOperator, TrainOperator
from airflow_mlops.trainers import SklearnTrainer

with DAG("card_{model}", schedule=None, default_args={{"owner": "ada", "model": "{model}"}}):
    trainer = SklearnTrainer("sklearn.linear_model.LogisticRegression", params={{"C": 0.25}})
    fit = TrainOperator(task_id="train", dataset={dataset}, trainer=trainer, seed=5)
    EvaluateOperator(task_id="evaluate", candidates=fit.output, card={{"purpose": "For {{{{ dag.dag_id }}}}."}})
"""


def test_a_dag_that_trains_and_evaluates_leaves_a_complete_card(client, run_dag, tmp_path):
    dataset = training_set(ArtifactStore(os.environ["AIRFLOW__MLOPS__ARTIFACTS"]))
    model = f"delays_{uuid.uuid4().hex[:8]}"
    run = run_dag(DAG.format(model=model, dataset=dataset.model_dump(mode="json")))
    assert set(run.states().values()) == {"success"}, run.states()
    ref = ModelVersionRef.model_validate(run.xcom("train")["candidate"])
    markdown, _ = cards(client, ref, tmp_path / "card")
    table, tags = rows_of(markdown), client.get_run(ref.run_id).data.tags
    expected = {
        "Owner": "ada", "DAG": f"card_{model}", "DAG run": run.run_id, "Task": "train", "C": "0.25", "Seed": "5",
        "Trainer": "LogisticRegression", "MLflow run": ref.run_id, "Hash of the trainer's code": tags["mlops.code"],
        "Hash of Python and its packages": tags["mlops.environment"],
    }  # fmt: skip
    assert {name: table[name] for name in expected} == {name: [value] for name, value in expected.items()}
    assert markdown.startswith(f"# {model} v1\n\n**Purpose:** For card_{model}. **Model:** {model} v1 predicts label")
    assert f"    airflow mlops reproduce {model} 1\n" in markdown


def test_a_mistake_in_the_card_is_found_when_the_dag_is_parsed():
    from airflow_mlops.operators import EvaluateOperator

    with pytest.raises(SpecError, match="The card of task 'evaluate' cannot run as it is configured: purpos: Extra"):
        EvaluateOperator(task_id="evaluate", candidates=[], card={"purpos": "x"})
    EvaluateOperator(task_id="later", candidates=[], card={"limits": "{{ params.limits }}"})


def test_the_owner_is_that_of_the_task_if_it_is_set():
    from airflow_mlops.operators import EvaluateOperator

    nobody = EvaluateOperator(task_id="nobody", candidates=[{}])
    assert nobody.build_spec({})["card"] == {}
    ada = EvaluateOperator(task_id="ada", candidates=[{}], owner="ada", card={"purpose": "x"})
    assert ada.build_spec({})["card"] == {"owner": "ada", "purpose": "x"}
    grace = EvaluateOperator(task_id="grace", candidates=[{}], owner="ada", card={"owner": "grace"})
    assert grace.build_spec({})["card"] == {"owner": "grace"}
