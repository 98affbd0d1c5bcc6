"""Recorded trainers run only estimators of well-known packages."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.errors import SpecError
from airflow_mlops.models.trainers.known import PACKAGES, is_known_estimator, own_code
from airflow_mlops.models.trainers.spec import FunctionTrainerSpec, SklearnTrainerSpec, TorchTrainerSpec


@pytest.mark.parametrize(
    "path",
    [
        "sklearn.ensemble.RandomForestClassifier",
        "sklearn.linear_model:LogisticRegression",
        "sklearn.calibration.CalibratedClassifierCV",
        "lightgbm.LGBMClassifier",
        "xgboost.XGBRegressor",
        "xgboost.sklearn:XGBClassifier",
        "interpret.glassbox.ExplainableBoostingClassifier",
    ],
)
def test_public_estimators_of_known_packages_are_known(path):
    assert is_known_estimator(path)
    assert own_code(SklearnTrainerSpec(estimator=path)) == []


@pytest.mark.parametrize(
    "path",
    [
        "subprocess.Popen",
        "os:system",
        "builtins.exec",
        # Functions of known packages that run code, download or write files.
        "sklearn.utils._testing.assert_run_python_script_without_output",
        "sklearn.datasets.fetch_file",
        "sklearn.datasets:fetch_openml",
        # Classes without the methods of an estimator, and names that the packages have imported.
        "sklearn.utils.Bunch",
        "sklearn.preprocessing.StandardScaler",
        "sklearn.base:BaseEstimator",
        "sklearn.datasets._base.Path",
        "xgboost.core.ctypes",
        # Names that only begin like a known package.
        "sklearnx.ensemble.RandomForestClassifier",
        "sklearn_evil:Estimator",
    ],
)
def test_anything_else_is_code_of_a_user(path):
    assert own_code(SklearnTrainerSpec(estimator=path)) == [path]


PARTS = st.sampled_from(["os", "own_module", "sklearn", "_private", "tests", "conftest", "subprocess", "utils"])


@given(first=PARTS.filter(lambda part: part not in PACKAGES), rest=st.lists(PARTS, min_size=1, max_size=3))
def test_no_module_of_other_packages_is_imported(first, rest):
    before = set(sys.modules)
    assert not is_known_estimator(".".join([first, *rest]))
    assert set(sys.modules) == before


@given(rest=st.lists(PARTS, min_size=1, max_size=3), private=st.sampled_from(["_testing", "tests", "conftest"]))
def test_no_internal_module_is_imported(rest, private):
    before = set(sys.modules)
    assert not is_known_estimator(".".join(["sklearn", *rest, private, "Name"]))
    assert set(sys.modules) == before


def test_an_estimator_that_does_not_exist_is_an_error():
    with pytest.raises(SpecError):
        is_known_estimator("sklearn.ensemble.Absent")


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        (FunctionTrainerSpec(function="own:fit"), ["own:fit"]),
        (SklearnTrainerSpec(estimator="sklearn.svm.SVC", preprocessing="own:prepare"), ["own:prepare"]),
        (TorchTrainerSpec(), []),
        (TorchTrainerSpec(module="own:Net", dataset="own:rows"), ["own:Net", "own:rows"]),
    ],
)
def test_every_import_path_of_a_trainer_counts(trainer, expected):
    assert own_code(trainer) == expected
