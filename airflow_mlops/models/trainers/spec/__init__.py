"""The specs of the trainers, which define the JSON fields of each kind of trainer."""

from airflow_mlops.models.trainers.spec.base import ImportPath, TrainerSpec
from airflow_mlops.models.trainers.spec.boosting import (
    BoostingTrainerSpec,
    CatBoostTrainerSpec,
    LightGBMTrainerSpec,
    XGBoostTrainerSpec,
)
from airflow_mlops.models.trainers.spec.kinds import (
    PROGRAM_PARAMETERS,
    FunctionTrainerSpec,
    NotebookTrainerSpec,
    ProgramTrainerSpec,
    ProjectTrainerSpec,
    SklearnTrainerSpec,
    TorchTrainerSpec,
)
from airflow_mlops.models.trainers.spec.search import AnyTrainer, SearchTrainerSpec, TrainerInput, check_trainer

__all__ = [
    "PROGRAM_PARAMETERS",
    "AnyTrainer",
    "BoostingTrainerSpec",
    "CatBoostTrainerSpec",
    "FunctionTrainerSpec",
    "ImportPath",
    "LightGBMTrainerSpec",
    "NotebookTrainerSpec",
    "ProgramTrainerSpec",
    "ProjectTrainerSpec",
    "SearchTrainerSpec",
    "SklearnTrainerSpec",
    "TorchTrainerSpec",
    "TrainerInput",
    "TrainerSpec",
    "XGBoostTrainerSpec",
    "check_trainer",
]
