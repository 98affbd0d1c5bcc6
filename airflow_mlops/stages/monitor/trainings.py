"""The trainers of challengers: the champion's trainer, and the trainers of the other candidates of the last decision.

Retraining compares several candidates, so the trainers of its winner and of the champion may differ. The ledger names
the candidates of the last decision, and the MLflow run of each candidate names its trainer. Anyone who can write to
MLflow could name any class there. A recorded trainer is therefore used only if it runs no user code, see
:mod:`airflow_mlops.models.trainers.known`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.base import Model, parse
from airflow_mlops.core.errors import MLOpsError, RegistryError, RegistryUnavailableError, SpecError
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.metrics.realised import UnmeasurableError
from airflow_mlops.models.rules.class_weight import ClassWeight
from airflow_mlops.models.trainers.known import own_code
from airflow_mlops.models.trainers.spec import AnyTrainer, BoostingTrainerSpec, TorchTrainerSpec, TrainerSpec
from airflow_mlops.performance.challenger import OtherTrainer
from airflow_mlops.registry import run_files
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.names import GPU_TAG, TRAINING_FILE
from airflow_mlops.registry.records.entry import Entry

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_OTHERS = 3
"""The largest number of other trainers. More would make each comparison less certain."""
MAX_SECONDS = 600.0
"""The largest expected time, in seconds, to fit the challengers of all other trainers together."""
_MAX_CANDIDATES = 10
_EVALUATED = ("promoted", "refused")
# Fields of a trainer that do not change the fitted model.
_IRRELEVANT = {"name", "serialization", "trusted_types"}


class Training(Model):
    """The trainer and the seed of a training.

    :param trainer: the trainer
    :param seed: seed of the training
    :param class_weight: weights of the classes in the training
    :param sample_weight: column of the training set with the weights of the rows; ``None`` if all rows had the same
        weight
    """

    trainer: AnyTrainer
    seed: int = 0
    class_weight: ClassWeight = None
    sample_weight: str | None = None


@dataclass(frozen=True)
class Others:
    """The trainers of other candidates.

    :param trainings: the trainer and seed of each
    :param notes: why a trainer is left out, one sentence each
    """

    trainings: Mapping[OtherTrainer, Training] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def training_of(present: ModelVersionRef, trainer: AnyTrainer | None, client: MlflowClient) -> Training | None:
    """Return the trainer of the operator, or the trainer and seed in the champion's MLflow run.

    :return: ``None`` if TrainOperator did not train the champion
    :raises UnmeasurableError: the champion's run cannot be read; the recorded trainer runs user code, needs a library
        that is not installed, starts from an earlier version, or learns a ranking; or the champion was trained with row
        weights
    :raises RegistryUnavailableError: MLflow does not respond
    """
    if trainer is not None:
        return Training(trainer=trainer)
    if not present.run_id:
        return None
    try:
        found = _recorded(present, client)
    except RegistryUnavailableError:
        raise
    except (RegistryError, SpecError) as error:
        # The run of a registered version may have been deleted, and a newer version of this package may have written
        # it.
        raise UnmeasurableError(str(error).rstrip(".")) from None
    if found is None:
        return None
    if own := own_code(found.trainer):
        raise UnmeasurableError(
            f"the trainer of {present} runs user code ({', '.join(own)}), and monitoring runs user code only if "
            "`trainer` is set; set `trainer` to train challengers"
        )
    _check_weights(found, f"{present} was trained")
    _check_installed(found.trainer)
    return found


def other_trainers(
    present: ModelVersionRef, own: TrainerSpec, entries: Sequence[Entry], rows: int, client: MlflowClient
) -> Others:
    """Return the trainers of the other candidates of the last decision, in the order of the candidates.

    The champion's trainer is left out. Trainers that differ only in their names, in the format of the stored model, or
    in their class weights, count as one trainer. A trainer is also left out, and a note says why, if

    - there are :data:`MAX_OTHERS` others before it;
    - its challengers and those of the trainers before it are expected to take more than :data:`MAX_SECONDS` seconds.
      The time is estimated from the fit time and the number of rows of each candidate;
    - its candidate is a network or boosted trees and was trained on a machine with a GPU, so the time on a CPU is
      unknown;
    - it was trained with row weights (``sample_weight``), which challengers do not use;
    - it runs user code, needs a library that is not installed, starts from an earlier version, learns a ranking, or
      cannot be read.

    Candidates that TrainOperator did not train have no trainer. If there are more than ten candidates, only the first
    ten are read.

    :param present: the champion
    :param own: the champion's trainer
    :param entries: the ledger of the model, oldest first
    :param rows: number of rows to which the challengers of one trainer are fitted, summed over all their trainings
    :raises RegistryUnavailableError: MLflow does not respond
    """
    found: dict[OtherTrainer, Training] = {}
    notes: list[str] = []
    known, spent = {_id(own)}, 0.0
    for candidate in _candidates(entries, present):
        without = f"No challengers were trained with the trainer of {candidate}"
        try:
            training = _recorded(candidate, client)
            if training is None or _id(training.trainer) in known:
                continue
            known.add(_id(training.trainer))
            _check_weights(training, "it was trained")
            if len(found) == MAX_OTHERS:
                raise UnmeasurableError(f"at most {MAX_OTHERS} other trainers are used")
            took = _expected_seconds(candidate, training.trainer, rows, client)
            if spent + took > MAX_SECONDS:
                raise UnmeasurableError(
                    f"they are expected to take {took:,.0f} s, and the limit for all other trainers together is {MAX_SECONDS:.0f} s"
                )
        except RegistryUnavailableError:
            raise
        except UnmeasurableError as error:
            notes.append(f"{without}, because {error}.")
        except MLOpsError as error:
            notes.append(f"{without}. {error}")
        else:
            spent += took
            found[OtherTrainer(name=training.trainer.label, id=_id(training.trainer))] = training
    return Others(found, notes)


def _candidates(entries: Sequence[Entry], present: ModelVersionRef) -> list[ModelVersionRef]:
    """Return the candidates of the last decision that have an MLflow run, except the champion, and at most ten."""
    last = next((entry for entry in reversed(entries) if entry.decision in _EVALUATED and entry.candidates), None)
    found = [item.candidate for item in last.candidates] if last is not None else []
    return [item for item in found if item.run_id and item != present][:_MAX_CANDIDATES]


def _id(trainer: TrainerSpec) -> str:
    fields = trainer.model_dump(mode="json", exclude=_IRRELEVANT)
    # Without this line, trainers that were recorded before this field existed would get other ids.
    if fields.get("group") is None:
        fields.pop("group", None)
    return fingerprint(fields)[:16]


def _expected_seconds(candidate: ModelVersionRef, trainer: TrainerSpec, rows: int, client: MlflowClient) -> float:
    """Return the expected time of fits to ``rows`` rows in seconds, in proportion to the fit of the candidate.

    :raises UnmeasurableError: challengers cannot be trained with the trainer, or the time is not known
    """
    if own := own_code(trainer):
        raise UnmeasurableError(f"it runs user code ({', '.join(own)})")
    _check_installed(trainer)
    with registry_errors(f"The MLflow run of {candidate} cannot be read"):
        run = client.get_run(candidate.run_id).data
    if isinstance(trainer, TorchTrainerSpec | BoostingTrainerSpec) and GPU_TAG in run.tags:
        raise UnmeasurableError("its candidate was trained on a machine with a GPU")
    seconds, trained = run.metrics.get("fit_seconds", math.nan), run.params.get("train_rows", "")
    if not (math.isfinite(seconds) and trained.isdecimal() and int(trained)):
        raise UnmeasurableError("its MLflow run does not say how long the training took")
    return float(seconds) * rows / int(trained)


def _check_weights(training: Training, trained: str) -> None:
    if training.sample_weight is not None:
        raise UnmeasurableError(
            f"{trained} with the weights in column {training.sample_weight!r} (sample_weight), but challengers cannot use row "
            "weights; set `trainer` to train challengers without weights"
        )


def _check_installed(trainer: TrainerSpec) -> None:
    # The libraries of estimators need no check, because own_code() has imported the class of the estimator.
    if isinstance(trainer, TorchTrainerSpec) and find_spec("torch") is None:
        raise UnmeasurableError("PyTorch is not installed where monitoring runs")
    if isinstance(trainer, BoostingTrainerSpec):
        if find_spec(trainer.library) is None:
            raise UnmeasurableError(f"{trainer.library} is not installed where monitoring runs")
        if trainer.warm_start is not None:
            raise UnmeasurableError("its trainer starts from an earlier version, which was trained on other rows")
        if trainer.group is not None:
            raise UnmeasurableError("its trainer learns a ranking, and challengers cannot learn rankings")


def _recorded(ref: ModelVersionRef, client: MlflowClient) -> Training | None:
    """Return the trainer in a version's MLflow run; ``None`` if TrainOperator did not train the version.

    :raises RegistryError: the run cannot be read
    :raises SpecError: a newer version of this package wrote the trainer
    """
    with registry_errors(f"The MLflow run of {ref} cannot be read"):
        if TRAINING_FILE not in run_files.paths(client, ref.run_id):
            return None
        recorded: dict[str, Any] = json.loads(run_files.read(client, ref.run_id, TRAINING_FILE))
    known = {name: recorded[name] for name in ("trainer", "seed", "class_weight", "sample_weight") if name in recorded}
    found: Training = parse(Training, known, f"The training of {ref}")
    return found
