"""Invalid searches are refused when the DAG is parsed."""

from __future__ import annotations

import json

import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SpecError
from airflow_mlops.models.trainers.spec import SearchTrainerSpec
from airflow_mlops.operators import SearchOperator, TrainOperator
from airflow_mlops.stages.search.spec import SearchSpec
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import Categorical, Float, FunctionTrainer, Int, Search, SklearnTrainer, TorchTrainer

TREE = SklearnTrainer("sklearn.tree.DecisionTreeClassifier")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "space: Dictionary should have at least 1 item"),
        ({"a": Float(3, 1)}, "space.a.float: low (3) is greater than high (1)"),
        ({"a": Int(3, 1)}, "space.a.int: low (3) is greater than high (1)"),
        ({"a": Float(0, 1, log=True)}, "low is 0, but with log=True it must be greater than 0"),
        ({"a": Int(0, 9, log=True)}, "low is 0, but with log=True it must be at least 1"),
        ({"a": Float(1, 2, log=True, step=0.5)}, "log=True and step= cannot be combined"),
        ({"a": Float(1, 2, step=0)}, "space.a.float.step: Input should be greater than 0"),
        ({"a": Float(1, float("inf"))}, "space.a.high is infinite"),
        ({"a": Int(1, 2, step=0)}, "space.a.int.step: Input should be greater than or equal to 1"),
        ({"a": Categorical([])}, "space.a.categorical.choices: List should have at least 1 item"),
        ({"a": Categorical([True, 1])}, "choices True and 1 are equal"),
        ({"a": Categorical([[1], 2, [1]])}, "choices [1] and [1] are equal"),
        (
            {"a": {"kind": "normal", "mean": 1}},
            "space.a: each parameter in space must be a Float, an Int or a Categorical",
        ),
        (
            {"a": 3},
            "space.a: each parameter in space must be a Float, an Int or a Categorical of airflow_mlops.trainers.",
        ),
    ],
)
def test_an_invalid_space_is_refused_in_one_sentence(space, message):
    with pytest.raises(SpecError) as error:
        Search(TREE, space, trials=3)
    assert message in str(error.value)
    assert str(error.value).startswith("The search cannot run as it is configured: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("trainer", "fields", "message"),
    [
        (TREE, {"trials": 0}, "trials: Input should be greater than or equal to 1"),
        (TREE, {"folds": 1}, "folds: Input should be greater than or equal to 2"),
        (TREE, {"metric": "auc"}, "'auc' is not a metric: choose one of roc_auc, "),
        (TREE, {"pruner": "hyperband"}, "pruner: Input should be 'median'"),
        ({**TREE, "params": {"a": 1}}, {}, "'a' is in both space and the trainer's params"),
        ({**TREE, "kind": "search"}, {}, "trainer: Input tag 'search' found using _kind() does not match"),
        (TorchTrainer(validation=0), {}, "networks and boosted trees on their validation rows"),
    ],
)
def test_an_invalid_search_is_refused(trainer, fields, message):
    with pytest.raises(SpecError) as error:
        Search(trainer, {"a": Int(1, 2)}, **{"trials": 3, **fields})
    assert message in str(error.value)


def test_values_that_a_networks_field_does_not_accept_are_refused():
    with pytest.raises(SpecError, match="learning_rate cannot be -1.0: Input should be greater than 0"):
        Search(TorchTrainer(), {"learning_rate": Float(-1, 1)}, trials=3)
    with pytest.raises(SpecError, match="precision cannot be '8'"):
        Search(TorchTrainer(), {"precision": Categorical(["32", "8"])}, trials=3)


def test_chosen_values_become_fields_or_params_of_the_trainer():
    network = SearchTrainerSpec(
        **Search(TorchTrainer(epochs=7), {"batch_size": Int(8, 64), "hidden": Categorical([[8], [9]])}, trials=1)
    )
    found = network.trainer.with_values({"batch_size": 32, "hidden": [9]})
    assert (found.batch_size, found.params, found.epochs) == (32, {"hidden": [9]}, 7)
    function = SearchTrainerSpec(**Search(FunctionTrainer("mine:train", {"x": 1}), {"epochs": Int(1, 2)}, trials=1))
    assert function.trainer.with_values({"epochs": 2}).params == {"x": 1, "epochs": 2}


def test_operators_validate_plain_dicts():
    plain = {"trainer": dict(TREE), "space": {"a": {"kind": "int", "low": 2, "high": 1}}, "trials": 3}
    message = "of task 't' cannot run as it is configured: space.a.int: low .2. is greater"
    with pytest.raises(SpecError, match=f"The search {message}"):
        SearchOperator(task_id="t", dataset={}, model="m", search=plain)
    with pytest.raises(SpecError, match=f"The trainer {message}"):
        TrainOperator(task_id="t", dataset={}, model="m", trainer={**plain, "kind": "search"})


def test_a_search_is_json_and_both_specs_list_its_connection():
    search = Search(
        TREE, {"a": Float(1, 2, step=0.5), "b": Categorical([None, "x", 2, [3]])}, trials=3, storage_conn_id="db"
    )
    again = json.loads(json.dumps(search))
    fields = {"dataset": {"name": "d", "id": "1", "rows": 1}, "model": "m"}
    assert SearchSpec(search=again, **fields).connections() == {"db", "mlflow_default"}
    assert TrainSpec(trainer=again, **fields).connections() == {"db", "mlflow_default"}


def result(value, metric="roc_auc", depth=1, **fields):
    trainer = {**TREE, "params": {"max_depth": depth}} if value is not None else None
    return {"study": "s", "run_id": f"run{depth}", "metric": metric, "value": value, "trainer": trainer, **fields}


@pytest.mark.parametrize(
    ("results", "depth"),
    [
        ([result(0.7, depth=1), result(0.8, depth=2), result(None, depth=3)], 2),
        ([result(0.7, "log_loss", 1), result(0.8, "log_loss", 2)], 1),
        (result(0.5, depth=4), 4),
    ],
)
def test_a_training_takes_the_best_result_of_several_searches(results, depth):
    fields = {"dataset": {"name": "d", "id": "1", "rows": 1}, "model": "m", "tags": {"team": "x"}}
    spec = TrainSpec(trainer=results, **fields)
    assert spec.trainer.params == {"max_depth": depth}
    assert spec.tags == {"mlops.search": f"run{depth}", "team": "x"}


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([result(None)], "the search found no parameters"),
        ([result(1), result(2, "brier")], "searches for the metrics brier and roc_auc cannot be compared"),
        ([], "trainer"),
    ],
)
def test_results_without_comparable_parameters_are_refused(results, message):
    fields = {"dataset": {"name": "d", "id": "1", "rows": 1}, "model": "m", "trainer": results}
    with pytest.raises(SpecError, match=message):
        parse(TrainSpec, fields, "Task 'train'")
