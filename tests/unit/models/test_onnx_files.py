"""Loading a model reads no file outside the model: external data of ONNX, and the file that MLmodel names."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.errors import ModelFormatError
from airflow_mlops.models.onnx.embedded import require_embedded
from airflow_mlops.models.onnx.scorer import OnnxModel

SECRET = b"the key!"


def external(location):
    """A tensor whose values are the first eight bytes of a file."""
    tensor = TensorProto(name="bytes", data_type=TensorProto.UINT8, dims=[8], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def model(feature="distance", initializers=(), nodes=(), functions=(), sparse=()):
    """A regression that returns the feature, with parts that an attacker adds."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [*nodes, helper.make_node("Identity", [feature], ["y"])],
        "g",
        [value(feature, TensorProto.FLOAT, [None, 1])],
        [value("y", TensorProto.FLOAT, [None, 1])],
        list(initializers),
        sparse_initializer=list(sparse),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, functions=list(functions), opset_imports=opsets, ir_version=8)


def contract(feature="distance"):
    return ModelContract(
        task="regression", label="late", features=[FeatureColumn(name=feature, kind="number")],
        dataset_name="d", dataset_id="0",
    )  # fmt: skip


def constant(tensor):
    return helper.make_node("Constant", [], ["c"], value=tensor)


def branch(tensor):
    return helper.make_graph(
        [constant(tensor)], "branch", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)]
    )


def sparse(tensor):
    indices = numpy_helper.from_array(np.array([0, 1]), "indices")
    return helper.make_sparse_tensor(tensor, indices, [2])


YES = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
PLACES = {
    "an initializer": lambda tensor: model(initializers=[tensor]),
    "a constant": lambda tensor: model(nodes=[constant(tensor)]),
    "a constant in a branch": lambda tensor: model(
        initializers=[YES],
        nodes=[helper.make_node("If", ["yes"], ["z"], then_branch=branch(tensor), else_branch=branch(tensor))],
    ),
    "a function": lambda tensor: model(
        functions=[helper.make_function("own", "F", [], ["c"], [constant(tensor)], [helper.make_opsetid("", 17)])]
    ),
    "a sparse initializer": lambda tensor: model(sparse=[sparse(tensor)]),
}
LOCATIONS = ["/etc/passwd", "../../secret", "secret", "file:///etc/passwd", "*/_ORT_MEM_ADDR_/*"]


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_it_is(place):
    with pytest.raises(ModelFormatError, match="secret"):
        require_embedded(PLACES[place](external("secret")).SerializeToString())


@pytest.mark.parametrize("location", LOCATIONS)
def test_no_location_is_accepted(location):
    with pytest.raises(ModelFormatError):
        require_embedded(model(initializers=[external(location)]).SerializeToString())


def test_a_file_does_not_become_predictions(tmp_path, monkeypatch):
    (tmp_path / "secret").write_bytes(SECRET)
    monkeypatch.chdir(tmp_path)
    nodes = [
        helper.make_node("Cast", ["bytes"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["distance", "numbers"], ["leak"]),
    ]
    attack = model(initializers=[external("secret")], nodes=nodes)
    attack.graph.node[-1].input[0] = "leak"
    attack.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 8
    # Without the check, ONNX Runtime reads the file and returns its bytes.
    session = onnxruntime.InferenceSession(attack.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"distance": np.zeros((1, 1), np.float32)})
    assert bytes(found[0].astype(int).tolist()) == SECRET
    with pytest.raises(ModelFormatError):
        OnnxModel(attack.SerializeToString(), contract())


def test_a_feature_may_be_called_location():
    loaded = OnnxModel(model("location").SerializeToString(), contract("location"))
    assert loaded.predict(pa.table({"location": [1.5]})).score.tolist() == [1.5]


def test_models_in_another_format_are_not_loaded(tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(model().SerializeToString(), options, providers=["CPUExecutionProvider"])
    with pytest.raises(ModelFormatError, match="ORT"):
        OnnxModel((tmp_path / "model.ort").read_bytes(), contract())
    with pytest.raises(ModelFormatError):
        OnnxModel(b"location" * 3, contract())


@pytest.mark.parametrize(
    "file", ["../other/model.skops", "{folder}/../other/model.skops", "link.skops", "absent.skops"]
)
def test_a_file_outside_the_folder_of_the_model_is_not_loaded(file, tmp_path):
    from mlflow.models import Model
    from sklearn.linear_model import LinearRegression
    from skops.io import dump

    from airflow_mlops.models.pyfunc.loading import load_answer

    (tmp_path / "other").mkdir()
    folder = tmp_path / "model"
    folder.mkdir()
    dump(LinearRegression().fit([[0], [1]], [0, 1]), tmp_path / "other" / "model.skops")
    (folder / "link.skops").symlink_to("../other/model.skops")
    description = Model(
        flavors={
            "python_function": {"loader_module": "mlflow.sklearn"},
            "sklearn": {"serialization_format": "skops", "pickled_model": file.format(folder=folder)},
        }
    )
    with pytest.raises(ModelFormatError, match="skops"):
        load_answer(folder, "m v1", description, allow_pyfunc=False)
    (folder / "link.skops").unlink()
    (folder / "model.skops").write_bytes((tmp_path / "other" / "model.skops").read_bytes())
    description.flavors["sklearn"]["pickled_model"] = "model.skops"
    assert load_answer(folder, "m v1", description, allow_pyfunc=False).ask([[3]]) == pytest.approx([3])
