import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skl2onnx import to_onnx
from sklearn.ensemble import HistGradientBoostingClassifier

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.models.inputs import numbers
from airflow_mlops.models.onnx.feeds import singles
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.serving.rows.request import MANY_ROWS, InputColumns, as_column, as_list


@pytest.fixture(scope="module")
def model():
    numbers = np.random.default_rng(0)
    values = numbers.normal(scale=100, size=(400, 2)).astype(np.float32)
    fitted = HistGradientBoostingClassifier(max_iter=20).fit(values, values[:, 0] > values[:, 1])
    # Each feature is an input of its own, as in the exports of TrainOperator.
    import onnx
    from onnx import TensorProto, helper
    from skl2onnx.common.data_types import FloatTensorType

    export = to_onnx(fitted, initial_types=[("features", FloatTensorType([None, 2]))], options={"zipmap": False})
    concat = helper.make_node("Concat", ["a", "b"], ["features"], axis=1)
    export.graph.node.insert(0, concat)
    del export.graph.input[:]
    export.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in ("a", "b"))
    onnx.checker.check_model(export)
    features = [FeatureColumn(name=name, kind="number") for name in ("a", "b")]
    contract = ModelContract(
        task="binary",
        label="y",
        features=features,
        classes=[False, True],
        positive=True,
        dataset_name="d",
        dataset_id="i",
    )
    return OnnxModel(export.SerializeToString(), contract)


whole = st.integers(-(2**63), 2**63 - 1) | st.none()
double = st.floats(allow_nan=False, allow_infinity=False)
any_number = double | st.integers(-(2**53), 2**53) | st.none()


@given(
    st.integers(1, 20).flatmap(
        lambda n: st.tuples(
            *[st.one_of(*(st.lists(kind, min_size=n, max_size=n) for kind in (whole, any_number, double)))] * 2
        )
    ),
    st.sampled_from([1, MANY_ROWS]),
)
def test_values_are_predicted_as_arrow_columns_are(model, columns, times):
    a, b = columns = [values * times for values in columns]
    arrays = {}
    for name, values in zip("ab", columns, strict=True):
        doubles = any(isinstance(value, float) for value in values)
        given = [float(value) if doubles and value is not None else value for value in values]
        arrays[name] = pa.array(given, pa.float64() if doubles else pa.int64())
    rows = InputColumns(model.contract).rows([{"a": x, "b": y} for x, y in zip(a, b, strict=True)])
    with np.errstate(over="ignore"):
        found, expected = model.predict_values(rows.features, rows.count), model.predict(pa.table(arrays))
    np.testing.assert_array_equal(found.score, expected.score)
    np.testing.assert_array_equal(found.prediction, expected.prediction)


def test_integers_and_truth_values_of_a_number_are_taken(model):
    rows = InputColumns(model.contract).rows([{"a": True, "b": 3}, {"a": 10**300, "b": None}])
    assert rows.features == {"a": [1, 10**300], "b": [3, None]}


@pytest.mark.parametrize("others", [1, MANY_ROWS])
@pytest.mark.parametrize("value", ["1", [1], {}, float("inf"), float("nan"), 10**400])
def test_a_value_that_is_not_a_number_is_refused(model, value, others):
    with pytest.raises(SchemaError, match=f"Row {others + 1} .*'a'"):
        InputColumns(model.contract).rows([{"a": 1, "b": 1}] * others + [{"a": value, "b": 1}])


@pytest.mark.parametrize("count", [1, MANY_ROWS])
@given(
    st.lists(
        st.integers(-(2**53) - 2, 2**53 + 2) | st.sampled_from([2**53, 2**53 + 1, 10**300, 1e300, 0.5]),
        min_size=1,
        max_size=3,
    )
)
def test_a_number_of_a_request_keeps_its_value(model, count, values):
    # The canary's key column may be a number, so an integer must not be rounded, however many rows a request has.
    rows = InputColumns(model.contract).rows([{"a": value, "b": 0} for value in values] * count)
    assert as_list(rows.features["a"]) == values * count


def test_a_field_with_another_name_is_refused_although_the_number_of_fields_is_right(model):
    with pytest.raises(SchemaError, match="Row 2 .*'c'"):
        InputColumns(model.contract).rows([{"a": 1, "b": 1}, {"a": 1, "c": 1}])


def test_logged_rows_have_the_types_of_the_training_set(model):
    contract = model.contract.model_copy(update={"timestamp": "at"})
    training = pa.schema([("id", pa.int64()), ("at", pa.date32()), ("a", pa.float64())])
    columns = InputColumns(contract, training, ["id"])
    parts = [columns.rows([{"a": 1, "b": 2.5, "id": 7, "at": "2013-04-01"}]), columns.rows([{"a": None, "b": 1}])]
    logged = columns.logged(parts)
    assert [field.type for field in logged.schema] == [
        pa.float64(),
        pa.float64(),
        pa.int64(),
        pa.timestamp("us", "UTC"),
    ]
    assert logged.column("id").to_pylist() == [7, None]
    assert logged.column("at").to_pylist()[0].isoformat() == "2013-04-01T00:00:00+00:00"
    with pytest.raises(SchemaError, match="'id'"):
        columns.rows([{"a": 1, "b": 1, "id": "seven"}])


def test_the_weight_of_a_row_is_logged_if_the_request_has_it(model):
    contract = model.contract.model_copy(update={"sample_weight": "weight"})
    training = pa.schema([("weight", pa.int64()), ("a", pa.float64())])
    columns = InputColumns(contract, training)
    rows = [{"a": 1, "b": 2.5, "weight": 2}, {"a": 1, "b": 2.5, "weight": 0.5}, {"a": 1, "b": 1}]
    logged = columns.logged([columns.rows(rows[:2]), columns.rows(rows[2:])])
    # A weight may have fractions, although all weights of the training set were integers.
    assert logged.column("weight") == pa.array([2.0, 0.5, None])
    assert columns.has("weight")
    with pytest.raises(SchemaError, match="'weight'"):
        columns.rows([{"a": 1, "b": 1, "weight": "much"}])
    with pytest.raises(SchemaError, match="unknown field 'weight'"):
        InputColumns(model.contract, training).rows(rows)


@pytest.mark.parametrize(
    "texts",
    [
        [
            "2013-04-01",
            None,
            "2013-04-01T06:30:00.123456789Z",
            "20130401T0630+0530",
            " 2013-04-01 24:00 ",
            "2013-W10-2",
        ],
        ["2013-04-01", "1/4/2013"],
        ["2013-02-30"],
        ["0000-01-01"],
        ["9999-12-31T23:59:59-01:00"],
        [20130401],
        [True],
        [None, None],
    ],
)
def test_a_few_times_are_read_by_the_rules_of_columns(texts):
    def read(values):
        try:
            return as_column(values, "at", pa.timestamp("us", "UTC")).to_pylist()[: len(texts)]
        except SchemaError as error:
            return str(error)

    assert read(texts) == read([*texts, *[None] * 20])


def test_json_numbers_are_read_as_the_decimals_that_they_mean():
    kind = pa.decimal128(9, 2)
    found = as_column([0.1, 12.5, 3, None, 1e6], "price", kind).cast(pa.string()).to_pylist()
    assert found == ["0.10", "12.50", "3.00", None, "1000000.00"]
    for wrong in (12.505, 1e300, True, "x"):
        with pytest.raises(SchemaError, match="The field 'price' has a value that is not of the type decimal128"):
            as_column([wrong], "price", kind)


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        (pa.int64(), [1, 1.5], [1, 2.0, None]),
        # A double stands for several integers beyond 2^53.
        (pa.int64(), [2.0**53 * 2], [2.0**53, 2**60 + 1]),
        (pa.float64(), [float("inf")], [1e300, 3]),
        (pa.list_(pa.int64()), [[1], [1.5]], [[1, 2.0], None, []]),
        (pa.list_(pa.float64()), [[float("-inf")]], [[0.5]]),
        (pa.struct([("a", pa.int64())]), [{"a": 1, "b": 2}], [{"a": 1}, {}, None]),
        (pa.struct([("a", pa.int64())]), [{"a": 1.5}], [{"a": 2.0}]),
        (pa.struct([("a", pa.int64())]), [[["a", 1]]], [{"a": 1}]),
    ],
    ids=str,
)
def test_a_value_that_arrow_would_change_is_refused(kind, wrong, right):
    with pytest.raises(SchemaError, match="'key'"):
        as_column(wrong, "key", kind)
    assert as_column(right, "key", kind) == pa.array(right, kind)


def test_infinite_numbers_have_the_scores_of_scoring_in_batches_where_a_request_can_have_them(model):
    columns, infinite = InputColumns(model.contract), float("inf")
    values = {"a": [infinite, -infinite, 1.0, infinite], "b": [0.0, 1.0, infinite, infinite]}
    rows = columns.checked(values, {}, 4, ["a", "b"])
    expected = model.predict(pa.table(values)).score
    np.testing.assert_array_equal(model.predict_values(rows.features, 4).score, expected)
    assert columns.logged([rows]).column("a").to_pylist() == values["a"]
    with pytest.raises(SchemaError, match="Row 3 .*'b'"):
        columns.checked(values, {}, 4, ["a"])
    with pytest.raises(SchemaError, match="'a'"):
        columns.checked({**values, "a": [1, 10**400, 2, 3]}, {}, 4, ["a", "b"])


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.float64(), pa.decimal128(38, 0)], ids=str)
def test_a_large_integer_has_one_value_whatever_its_column_and_its_request(kind):
    # As a double, the number lies halfway between two numbers in single precision, and is rounded down.
    number = 2**60 + 2**36 + 1
    column = pa.array([float(number) if pa.types.is_floating(kind) else number, None], kind)
    batch = numbers(column, "a")
    for values in ([number, None], [float(number), None], [number, 0.5]):
        assert singles({"a": values, "b": [0.1, 7]}, ["a", "b"])[0][0] == batch[0] == 2.0**60
    assert np.isnan(batch[1])


def test_many_doubles_are_kept_as_an_array_next_to_other_values():
    doubles, nulls, large = [1.5, -(2.0**60)] * MANY_ROWS, [None, 0.5] * MANY_ROWS, [2**60 + 2**36 + 1, 0] * MANY_ROWS
    contract = ModelContract(
        task="regression", label="y", dataset_name="d", dataset_id="i",
        features=[FeatureColumn(name=name, kind="number") for name in "abc"],
    )  # fmt: skip
    rows = InputColumns(contract).rows(
        [dict(zip("abc", row, strict=True)) for row in zip(doubles, nulls, large, strict=True)]
    )
    assert [type(rows.features[name]) for name in "abc"] == [np.ndarray, list, list]
    found = singles(rows.features, list("abc"))
    assert found[:, :2].astype(float).tolist()[::2] == [[1.5, -(2.0**60)], [2.0**60, 0]]
    assert np.isnan(found[1]).tolist() == [True, False] * MANY_ROWS
    with pytest.raises(SchemaError, match="Row 40"):
        InputColumns(contract).rows([{"a": 1.5, "b": 1.5, "c": 1.5}] * 39 + [{"a": float("inf"), "b": 1.5, "c": 1.5}])


def test_no_rows_have_no_predictions(model):
    assert len(model.predict_values({"a": [], "b": []}, 0).score) == 0
