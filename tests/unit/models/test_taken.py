"""A model that a notebook or a project logged is loaded without running code, unless the trainer says otherwise."""

from __future__ import annotations

import pytest

from airflow_mlops.core.errors import ModelFormatError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.trainers.programs.taken import take
from airflow_mlops.models.trainers.spec import NotebookTrainerSpec
from airflow_mlops.models.training_data import read_part
from tests.support.training import training_set


@pytest.fixture
def rows(tmp_path):
    store = ArtifactStore(tmp_path.as_uri())
    return read_part(open_dataset(store, training_set(store, features=["hour", "weekend"])), "train")


@pytest.fixture
def save(rows, tmp_path):
    import mlflow.sklearn
    from sklearn.linear_model import LogisticRegression

    def save(form, estimator=None, **options):
        estimator = estimator or LogisticRegression().fit(rows.frame, rows.labels)
        folder = tmp_path / f"{form}-{len(list(tmp_path.iterdir()))}"
        mlflow.sklearn.save_model(
            estimator, str(folder), serialization_format=form, pip_requirements=["scikit-learn"], **options
        )
        return folder

    return save


def taken(folder, rows, **fields):
    spec = NotebookTrainerSpec(notebook="n.ipynb", **fields)
    return take(folder, spec, rows, "Notebook 'n.ipynb'", params={}, sources={})


def test_a_pickle_needs_the_consent_of_the_trainer(rows, save, monkeypatch):
    folder = save("cloudpickle")
    with monkeypatch.context() as patch:
        patch.setattr("mlflow.sklearn.load_model", lambda path: pytest.fail("the pickle was loaded"))
        with pytest.raises(ModelFormatError, match="cloudpickle, and loading this format can run code"):
            taken(folder, rows)
    model = taken(folder, rows, serialization="cloudpickle")
    assert model.predict(rows.frame).shape == (600, 2)


def test_types_of_the_user_must_be_trusted(rows, save):
    from sklearn.pipeline import make_pipeline

    from tests.support.own_training import Doubled

    estimator = make_pipeline(Doubled(), type(taken(save("skops"), rows).estimator)()).fit(rows.frame, rows.labels)
    name = "tests.support.own_training.Doubled"
    folder = save("skops", estimator, skops_trusted_types=[name])
    with pytest.raises(ModelFormatError, match=name):
        taken(folder, rows)
    assert taken(folder, rows, trusted_types=[name]).predict(rows.frame).shape == (600, 2)


def test_a_file_outside_of_the_folder_and_other_flavours_are_refused(rows, save, tmp_path):
    folder = save("skops")
    file = folder / "MLmodel"
    content = file.read_text()
    (tmp_path / "model.skops").write_bytes((folder / "model.skops").read_bytes())
    file.write_text(content.replace("pickled_model: model.skops", "pickled_model: ../model.skops"))
    with pytest.raises(ModelFormatError, match="not a file in the model's folder"):
        taken(folder, rows)
    file.write_text(content.replace("  sklearn:", "  xgboost:"))
    with pytest.raises(ModelFormatError, match="flavour xgboost"):
        taken(folder, rows)
