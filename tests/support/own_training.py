"""Training functions as users write them, for FunctionTrainer."""

from __future__ import annotations

from typing import Any


class Doubled:
    """A transformer of the user, which skops does not know."""

    def fit(self, X: Any, y: Any = None) -> Doubled:  # noqa: N803
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        return X * 2


def weighted(X: Any, y: Any, *, params: dict[str, Any], seed: int, sample_weight: Any = None) -> Any:  # noqa: N803
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    return pipeline.fit(X, y, logisticregression__sample_weight=sample_weight)


def unweighted(X: Any, y: Any, *, params: dict[str, Any], seed: int) -> Any:  # noqa: N803
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression().fit(X, y)


def onnx_file(X: Any, y: Any, *, params: dict[str, Any], seed: int) -> Any:  # noqa: N803
    """Return an ONNX model of all features as one matrix: a path, bytes or a ``ModelProto``."""
    from pathlib import Path

    from skl2onnx import to_onnx
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    values = X.to_numpy("float32")
    model = to_onnx(
        make_pipeline(SimpleImputer(), LogisticRegression()).fit(values, y), values, options={"zipmap": False}
    )
    if params["as"] == "proto":
        return model
    if params["as"] == "bytes":
        return model.SerializeToString()
    Path(params["as"]).write_bytes(model.SerializeToString())
    return params["as"]


def keras_network(X: Any, y: Any, *, params: dict[str, Any], seed: int) -> Any:  # noqa: N803
    import keras

    keras.utils.set_random_seed(seed)
    inputs = keras.Input((X.shape[1],))
    normalised = keras.layers.Normalization()
    normalised.adapt(X.fillna(0).to_numpy("float32"))
    hidden = keras.layers.Dense(8, activation="relu")(normalised(keras.ops.nan_to_num(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(1, activation=params["activation"])(hidden))
    model.compile("adam", "binary_crossentropy")
    model.fit(X.to_numpy("float32"), y, epochs=2, verbose=0)
    return model


def torch_network(X: Any, y: Any, *, params: dict[str, Any], seed: int) -> Any:  # noqa: N803
    import torch

    torch.manual_seed(seed)

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(X.shape[1], 4), torch.nn.Dropout(0.5))
            self.last = torch.nn.Linear(4, params["outputs"])
            if params.get("sigmoid"):
                self.last = torch.nn.Sequential(self.last, torch.nn.Sigmoid())

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.last(self.layers(torch.nan_to_num(rows) / 1000))

    return Network()


def text_classifier(X: Any, y: Any, *, params: dict[str, Any], seed: int) -> Any:  # noqa: N803
    """Train a small transformer on its one text feature, and return it as a pipeline of Hugging Face."""
    import torch
    from transformers import TextClassificationPipeline

    from tests.support.transformers import model, tokenizer

    torch.manual_seed(seed)
    classes = sorted(set(y.tolist()))
    # The order of the outputs is not that of the label's values.
    names = dict(enumerate(reversed(classes)))
    network, words = model(params.get("architecture", "distilbert"), names), tokenizer()
    texts, wanted = X.iloc[:, 0].tolist(), torch.tensor([classes[::-1].index(value) for value in y.tolist()])
    rows = words(texts, return_tensors="pt", padding=True, truncation=True)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(params.get("epochs", 30)):
        optimizer.zero_grad()
        network(**rows, labels=wanted).loss.backward()
        optimizer.step()
    return TextClassificationPipeline(model=network, tokenizer=words)
