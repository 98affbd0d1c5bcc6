"""A text classifier of Hugging Face that a function returns: its ONNX export with the tokenizer, and what is refused."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pyarrow as pa
import pytest

from airflow_mlops.core.errors import ModelFormatError, SchemaError, SpecError, TrainingError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models import parity
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.onnx.tokens import TOKENIZER
from airflow_mlops.models.trainers import function
from airflow_mlops.models.trainers.hugging_face import text_classifier
from airflow_mlops.models.trainers.spec import FunctionTrainerSpec
from airflow_mlops.models.training_data import new_contract, read_part
from tests.support.training import training_set
from tests.support.transformers import LONGEST, model, reviews, tokenizer

NAMES = {0: "late", 1: "early"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    store = ArtifactStore(tmp_path_factory.mktemp("texts").as_uri())
    dataset = open_dataset(store, training_set(store, reviews(200, 1), reviews(300, 2), features=["review"]))
    return dataset, read_part(dataset, "train"), read_part(dataset, "test")


@pytest.fixture(scope="module", params=["distilbert", "bert"])
def fitted(request, parts):
    """A trained model, its export with the differences, and the loaded export."""
    dataset, train, test = parts
    spec = FunctionTrainerSpec(
        function="tests.support.own_training:text_classifier", params={"architecture": request.param}
    )
    found = function.fit(spec, train, 3)
    contract = new_contract(dataset, train, found)
    export = parity.export(found, contract, train, test, lambda message: None)
    return SimpleNamespace(model=found, export=export, onnx=OnnxModel(export.content, contract))


def pipeline(network=None, words=None, **options):
    # Each test process collects this module, and importing the library takes seconds.
    from transformers import TextClassificationPipeline

    return TextClassificationPipeline(
        model=network or model("distilbert", NAMES), tokenizer=words or tokenizer(), **options
    )


def probabilities(onnx, texts):
    return onnx.predict(pa.table({"review": pa.array(texts, pa.string())})).probabilities


def test_the_export_predicts_as_the_pipeline(fitted, parts):
    assert fitted.model.packages == ["tokenizers", "torch", "transformers"]
    assert 0 < fitted.export.parity.max_difference < 1e-5
    assert fitted.export.parity.label_flips == 0
    # The outputs of the network and the classes are in different orders.
    assert np.mean(fitted.export.predictions.prediction == parts[2].labels) > 0.65
    random = np.random.default_rng(0)
    texts = ["", " ", "bad", "good " * 500, "\x00", "[PAD] bad [MASK]", "ﬁne\u0301 İ ß\u00ad", "🛫🛬", "x" * 20_000]
    texts += ["12345", "007", "1e5", "-0", "NaN", "null", "true", "2024-01-05", "\ufeffbad", "\u202ebad", "a\nb"]
    texts += ["".join(map(chr, random.choice([*range(1, 0xD800), *range(0xE000, 0x1FFFF)], 15))) for _ in range(60)]
    frame = pa.table({"review": texts}).to_pandas()
    assert np.abs(probabilities(fitted.onnx, texts) - fitted.model.predict(frame)).max() < 1e-5


def test_a_prediction_depends_on_its_text_only(fitted, parts):
    texts = (
        parts[0].table("test")["review"].to_pylist() if hasattr(parts[0], "table") else list(parts[2].frame["review"])
    )
    found = probabilities(fitted.onnx, texts)
    order = np.random.default_rng(1).permutation(len(texts))
    assert np.array_equal(probabilities(fitted.onnx, [texts[place] for place in order]), found[order])
    for place in range(0, len(texts), 10):
        alone = fitted.onnx.predict_values({"review": [texts[place]]}, 1)
        assert np.array_equal(alone.probabilities[0], found[place])
    assert np.array_equal(probabilities(fitted.onnx, [None, "bad"]), probabilities(fitted.onnx, ["", "bad"]))
    shuffled = fitted.onnx.shuffled(pa.table({"review": texts}))("review", order)
    assert np.array_equal(shuffled.probabilities, found[order])
    # Texts are truncated, not refused, and what is cut off changes nothing.
    long = "bad " * LONGEST
    assert np.array_equal(*probabilities(fitted.onnx, [f"{long}good", f"{long}late"]))


def test_a_column_with_one_text_is_learned_and_numbers_are_no_texts(tmp_path):
    store = ArtifactStore(tmp_path.as_uri())
    spec = FunctionTrainerSpec(function="tests.support.own_training:text_classifier", params={"epochs": 1})
    same = reviews(60).set_column(1, "review", pa.array(["bad flight"] * 60))
    dataset = open_dataset(store, training_set(store, same, same, features=["review"]))
    train = read_part(dataset, "train")
    found = function.fit(spec, train, 3)
    export = parity.export(found, new_contract(dataset, train, found), train, train, lambda message: None)
    assert len(np.unique(export.predictions.score)) == 1
    # Ingestion reads a file whose texts are all digits as integers, unless the type is declared.
    onnx = OnnxModel(export.content, new_contract(dataset, train, found))
    with pytest.raises(SchemaError, match="'review' was text in training, but has the type int64"):
        onnx.predict(pa.table({"review": [12345, 7]}))


def test_a_call_has_a_bounded_number_of_tokens(fitted, monkeypatch):
    sizes = []
    inner = fitted.onnx._session._session

    def run(outputs, feeds):
        sizes.append(feeds["input_ids"].shape)
        return inner.run(outputs, feeds)

    monkeypatch.setattr(fitted.onnx._session, "_session", SimpleNamespace(run=run))
    words = np.random.default_rng(0).choice(["good", "bad", "late", "fine"], (1_000, LONGEST + 5))
    probabilities(fitted.onnx, [" ".join(row) for row in words])
    assert {length for _, length in sizes} == {LONGEST}
    assert sum(rows for rows, _ in sizes) == 1_000
    assert max(rows * length for rows, length in sizes) <= 2_048


@pytest.mark.parametrize("case", ["tokenizer", "features", "library"])
def test_a_model_that_cannot_be_tokenized_is_refused(fitted, monkeypatch, case):
    content, contract, error = fitted.export.content, fitted.onnx.contract, ModelFormatError
    if case == "tokenizer":
        changed = onnx.load_from_string(content)
        (entry,) = [item for item in changed.metadata_props if item.key == TOKENIZER]
        entry.value = entry.value[:100]
        content = changed.SerializeToString()
    elif case == "features":
        contract = contract.model_copy(update={"features": contract.features * 2})
    else:
        monkeypatch.setitem(sys.modules, "tokenizers", None)
        error = SpecError
    with pytest.raises(error, match=r"tokenizers" if case == "library" else "tokenizer"):
        OnnxModel(content, contract)


def _without_special_tokens():
    from tokenizers import processors

    words = tokenizer()
    words.backend_tokenizer.post_processor = processors.Sequence([])
    return pipeline(words=words)


def _with_code():
    from transformers import BertTokenizerFast

    class OwnCode(BertTokenizerFast):
        def __call__(self, text, **options):
            return super().__call__(text.replace("late", "good"), **options)

    words = tokenizer()
    words.__class__ = OwnCode
    return pipeline(words=words)


REFUSED = {
    "other classes": (lambda: pipeline(model("distilbert", {0: "LABEL_0", 1: "LABEL_1"})), TrainingError, "id2label"),
    "more classes": (lambda: pipeline(model("distilbert", {**NAMES, 2: "on time"})), TrainingError, "id2label"),
    "one output": (lambda: pipeline(model("distilbert", {0: "late"})), TrainingError, "1 output,"),
    "several labels": (
        lambda: pipeline(model("distilbert", NAMES, problem_type="multi_label_classification")),
        TrainingError,
        "multi_label",
    ),
    "sigmoid": (lambda: pipeline(function_to_apply="sigmoid"), TrainingError, "sigmoid"),
    "no maximum length": (lambda: pipeline(words=tokenizer(None)), ModelFormatError, "no maximum length"),
    "too long": (lambda: pipeline(words=tokenizer(LONGEST + 1)), ModelFormatError, f"text of {LONGEST + 1} tokens"),
    "options": (lambda: pipeline(add_special_tokens=False), ModelFormatError, "option 'add_special_tokens'"),
    "more tokens": (
        lambda: pipeline(model("distilbert", NAMES, vocab_size=9)),
        ModelFormatError,
        r"resize_token_embeddings",
    ),
    "no tokens": (_without_special_tokens, ModelFormatError, "no tokens for the text ''"),
    "code": (_with_code, ModelFormatError, "computes other input_ids"),
    "half precision": (
        lambda: pipeline(model("distilbert", NAMES).bfloat16()),
        ModelFormatError,
        r"torch\.bfloat16",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_pipelines_are_refused(parts, case):
    make, error, why = REFUSED[case]
    with pytest.raises(error, match=why):
        text_classifier(make(), parts[1], "reviews", {}, {})


def test_the_features_must_be_one_text(parts, tmp_path, monkeypatch):
    from tests.support import own_training

    store = ArtifactStore(tmp_path.as_uri())
    train = read_part(open_dataset(store, training_set(store, features=["hour", "carrier"])), "train")
    with pytest.raises(TrainingError, match="features 'hour', 'carrier'"):
        text_classifier(pipeline(), train, "reviews", {}, {})
    monkeypatch.setattr(own_training, "unweighted", lambda X, y, *, params, seed: model("distilbert", NAMES))  # noqa: N803
    with pytest.raises(TrainingError, match="without its tokenizer"):
        function.fit(FunctionTrainerSpec(function="tests.support.own_training:unweighted"), parts[1], 3)
