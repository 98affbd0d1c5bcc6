"""Export a text classifier of Hugging Face, together with its tokenizer, as one ONNX model."""

from __future__ import annotations

import copy
import inspect
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.errors import ModelFormatError, TrainingError, named, one_line
from airflow_mlops.core.isolation import quiet
from airflow_mlops.models.onnx.serialised import serialised
from airflow_mlops.models.onnx.tokens import INPUTS, TOKENIZER
from airflow_mlops.models.trainers.base import FittedModel, TrainingData
from airflow_mlops.models.trainers.onnx_file import OnnxFileModel

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

# The tokens of the stored tokenizer are compared with those of the pipeline for this many training rows.
_ROWS = 2_000
# Transformers uses a maximum length above this one for tokenizers without a maximum length.
_LONGEST = 1_000_000
# The largest difference between a probability of the pipeline and of the export, as on held-out rows.
_TOLERANCE = 1e-3


def text_classifier(
    pipeline: Any, data: TrainingData, name: str, params: dict[str, Any], sources: dict[str, Any]
) -> FittedModel:
    """Return a fitted model for a pipeline, which must classify one text feature into the classes of the label.

    The result predicts with the pipeline, so that the export can be compared with it later.

    :param pipeline: a ``transformers.TextClassificationPipeline``
    :param data: the rows that the model was fitted to
    :param name: name of the model in MLflow
    :param params: the training parameters that are logged to MLflow
    :param sources: the function, by import path
    :raises TrainingError: the pipeline does not fit the features, the label or the ML task
    :raises ModelFormatError: the model or its tokenizer cannot be exported
    """
    if data.task == "regression" or [feature.kind for feature in data.features] != ["string"]:
        raise TrainingError(
            f"{name} is a text classifier, which needs a training set with exactly one feature, of text, and a label with classes, "
            f"but the training set has the {named('feature', [feature.name for feature in data.features])} and the ML task "
            f"{data.task}. Build such a training set."
        )
    import pandas as pd

    (feature,) = data.features
    # Transformers leaves a model in training mode, with dropout, after a training.
    pipeline.model.eval()
    order = _order(pipeline, data, name)
    length = _max_length(pipeline, name)
    tokenizer = _tokenizer(pipeline, length, name)
    _compare_tokens(pipeline, tokenizer, [*data.frame[feature.name].head(_ROWS), *_extremes(length)], name)
    labels = [pipeline.model.config.id2label[place] for place in order]

    def answer(frame: pd.DataFrame) -> NDArray[Any]:
        texts = frame[feature.name].tolist()
        with quiet():
            found = pipeline(texts, truncation=True, top_k=None) if texts else []
        scores = [{item["label"]: item["score"] for item in row} for row in found]
        return np.array([[row[label] for label in labels] for row in scores], np.float64).reshape(-1, len(labels))

    # Texts that need not occur in the training set.
    extremes = pd.DataFrame({feature.name: _extremes(length)})
    try:
        wanted = answer(extremes)
    except Exception as error:
        raise ModelFormatError(
            f"The pipeline of {name} cannot classify a text of {length:,} tokens, its maximum length: {one_line(error, 300)}. Set "
            "tokenizer.model_max_length to the number of tokens that the model supports."
        ) from error
    content = _exported(pipeline, order, tokenizer.to_str(), name)
    model = OnnxFileModel(
        content,
        data,
        name=name,
        params=params,
        sources=sources,
        packages=["tokenizers", "torch", "transformers"],
        answer=answer,
        tokenized=True,
    )
    if not (np.abs(model.by_onnx(extremes) - wanted) <= _TOLERANCE).all():
        raise ModelFormatError(
            f"The probabilities of the ONNX export of {name} differ from those of the pipeline for an empty text or a text of {length:,} "
            "tokens, its maximum length. Use another model."
        )
    return model


def _order(pipeline: Any, data: TrainingData, name: str) -> list[int]:
    """Return, for each class of the label, the position of the model's output.

    :raises TrainingError: the outputs are not the probabilities of the classes of the label
    """
    from transformers.pipelines.text_classification import ClassificationFunction

    config = pipeline.model.config
    function = pipeline._postprocess_params.get("function_to_apply")
    if (
        config.num_labels < 2
        or config.problem_type not in (None, "single_label_classification")
        or function not in (None, ClassificationFunction.SOFTMAX)
    ):
        raise TrainingError(
            f"{name} does not return one probability for each of several classes that exclude each other: it has "
            f"{config.num_labels} output{'' if config.num_labels == 1 else 's'}, the problem_type {config.problem_type!r} and the "
            f"function_to_apply {getattr(function, 'value', None)!r}. Fine-tune it with num_labels={len(data.classes)}, for "
            "single_label_classification."
        )
    given = [str(config.id2label[place]) for place in range(config.num_labels)]
    wanted = [str(value) for value in data.classes]
    if sorted(given) != sorted(wanted):
        raise TrainingError(
            f"The id2label of {name} has the {named('value', given)}, but the label {data.label!r} has the "
            f"{named('value', wanted)}. Set model.config.id2label to the values of the label, in the order of the model's outputs."
        )
    return [given.index(value) for value in wanted]


def _max_length(pipeline: Any, name: str) -> int:
    """Return the number of tokens at which texts are truncated.

    :raises ModelFormatError: the length is not known, or the pipeline passes other options to its tokenizer
    """
    options = {key: value for key, value in pipeline._preprocess_params.items() if key != "truncation"}
    length = options.pop("max_length", None) or pipeline.tokenizer.model_max_length
    if options:
        raise ModelFormatError(
            f"The pipeline of {name} passes {named('option', list(options))} to its tokenizer, but only truncation and "
            "max_length can be exported. Create the pipeline without them."
        )
    if length > _LONGEST:
        raise ModelFormatError(
            f"The tokenizer of {name} has no maximum length, at which texts are truncated. Set tokenizer.model_max_length to the "
            "number of tokens that the model supports."
        )
    return int(length)


def _tokenizer(pipeline: Any, length: int, name: str) -> Any:
    """Return a copy of the tokenizer that truncates and does not pad.

    :raises ModelFormatError: the tokenizer is not one of the library tokenizers, or has more tokens than the model
    """
    from tokenizers import Tokenizer

    try:
        found = Tokenizer.from_str(pipeline.tokenizer.backend_tokenizer.to_str())
    except Exception as error:
        raise ModelFormatError(
            f"The tokenizer of {name}, a {type(pipeline.tokenizer).__name__}, cannot be stored as tokenizer.json: "
            f"{one_line(error, 300)}. Use a fast tokenizer of Transformers."
        ) from error
    known, given = pipeline.model.get_input_embeddings().weight.shape[0], found.get_vocab_size()
    if given > known:
        raise ModelFormatError(
            f"The tokenizer of {name} has {given:,} tokens, but the model has embeddings for {known:,}, and cannot classify texts "
            "with the others. Call model.resize_token_embeddings(len(tokenizer)) before the training."
        )
    found.no_padding()
    found.enable_truncation(length, direction=pipeline.tokenizer.truncation_side)
    return found


def _extremes(length: int) -> list[str]:
    """Return the text of a null, and a text of more than ``length`` tokens."""
    return ["", "a " * length]


def _compare_tokens(pipeline: Any, tokenizer: Any, texts: list[str], name: str) -> None:
    options = {**pipeline._preprocess_params, "truncation": True}
    for text in texts:
        wanted, found = pipeline.preprocess(text, **options), tokenizer.encode(text)
        if unknown := [key for key in wanted if key not in INPUTS]:
            raise ModelFormatError(
                f"The tokenizer of {name} computes the {named('input', unknown)}, but only {', '.join(INPUTS)} can be exported. Use "
                "another model."
            )
        if not found.ids:
            raise ModelFormatError(
                f"The tokenizer of {name} has no tokens for the text {text[:50]!r}, which its model therefore cannot classify. Use a "
                "tokenizer that adds a token to each text, such as [CLS]."
            )
        for key, values in wanted.items():
            if values[0].tolist() != getattr(found, INPUTS[key]):
                raise ModelFormatError(
                    f"The tokenizer.json of {name}, a {type(pipeline.tokenizer).__name__}, computes other {key} than the pipeline for "
                    f"the text {text[:50]!r}. Use a fast tokenizer of Transformers without custom code."
                )


def _exported(pipeline: Any, order: list[int], tokenizer: str, name: str) -> bytes:
    import torch

    from airflow_mlops.models.trainers.torch.onnx import network_to_onnx

    if kinds := {str(value.dtype) for value in pipeline.model.parameters()} - {"torch.float32"}:
        raise ModelFormatError(
            f"{name} has parameters of type {', '.join(sorted(kinds))}, but is exported in float32. Convert it with model.float()."
        )
    inputs = list(pipeline.preprocess("a"))
    options = {"return_dict": True}
    if "use_cache" in inspect.signature(pipeline.model.forward).parameters:
        options["use_cache"] = False

    class Answer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # A copy, because the pipeline may be on a GPU.
            self.network = copy.deepcopy(pipeline.model)

        def forward(self, *values: torch.Tensor) -> torch.Tensor:
            logits = self.network(**dict(zip(inputs, values, strict=True)), **options).logits
            return torch.softmax(logits, dim=1)[:, order]

    try:
        model = network_to_onnx(Answer(), {key: torch.ones(2, 5, dtype=torch.int64) for key in inputs}, sequences=True)
        fixed = [item.name for item in model.graph.input for size in item.type.tensor_type.shape.dim if size.dim_value]
        if fixed:
            raise ValueError(f"input {fixed[0]} has a fixed shape")
        model.metadata_props.add(key=TOKENIZER, value=json.dumps(json.loads(tokenizer), ensure_ascii=False))
        content = serialised(model)
    except Exception as error:
        raise ModelFormatError(
            f"PyTorch cannot export {name} to ONNX: {one_line(error, 300)}. Use a model that torch.export supports for any number "
            "of rows and tokens, such as BERT, DistilBERT or RoBERTa, of less than 2 GB."
        ) from error
    return content
