"""Train by running an MLflow Project."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.core.imports import SourceFile
from airflow_mlops.core.secrets import mask
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.models.trainers.base import FittedModel, TrainingData, TrainingRun
from airflow_mlops.models.trainers.programs import process, rows
from airflow_mlops.models.trainers.programs.files import find
from airflow_mlops.models.trainers.programs.taken import take
from airflow_mlops.models.trainers.programs.tracking import TemporaryTracking
from airflow_mlops.models.trainers.spec import ProjectTrainerSpec

# Folders that are not code of the project.
_NO_CODE = {"__pycache__", "mlruns", "node_modules"}
_LONGEST = 500


def fit(spec: ProjectTrainerSpec, data: TrainingData, seed: int, run: TrainingRun | None = None) -> FittedModel:
    """Run the entry point of the project with ``mlflow.projects.run``, and take the model that it logged to MLflow.

    :param spec: the trainer
    :param data: the rows to fit a model to
    :param seed: the parameter ``seed`` of the project
    :param run: log functions of the training; ``None`` to log nothing
    :raises SpecError: the project or its entry point does not exist, or does not have the parameters
    :raises TrainingError: the project fails, or logs no model or several
    :raises ModelFormatError: loading the logged model could run code, or the model has another flavour
    """
    project = find(spec.project, "project")
    declared = _parameters(project, spec)
    # The project may write files into its own folder when it runs.
    code = SourceFile(project, _code_hash(project))
    program = f"Project {spec.project!r}"
    with temporary_folder("project") as folder:
        given = rows.write(spec, data, seed, run, folder)
        needed = {"train_path", *spec.params, *({"validation_path", "sample_weight"} & given.keys())}
        if missing := sorted(needed - declared):
            why = " because the rows have weights" if missing == ["sample_weight"] else ""
            raise SpecError(
                f"Entry point {spec.entry_point!r} of {program} does not declare {', '.join(map(repr, missing))} in "
                f"`parameters`{why}. Declare it in the file MLproject, or correct the name."
            )
        tracking, output, settings = TemporaryTracking(folder), folder / "output.txt", folder / "settings.json"
        asked = {
            "uri": str(project),
            "entry_point": spec.entry_point,
            # MLflow would append parameters that the entry point does not declare to its command.
            "parameters": {name: _text(value) for name, value in given.items() if name in declared},
            "env_manager": spec.env_manager,
        }
        settings.write_text(json.dumps(asked))
        if run is not None:
            run.progress(f"{program} is running.")
        # `python` in the command of the project is the Python of the step.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        arguments = ["-m", "airflow_mlops.models.trainers.programs.mlproject", str(settings)]
        status = process.run(arguments, {**tracking.environment, "PATH": path}, output)
        _log(run, tracking, output, folder)
        if status:
            line = process.last_line(output)[:_LONGEST].rstrip(". ")
            raise TrainingError(f"{program} failed: {line or f'exit status {status}'}. Correct the project.")
        return take(
            tracking.model(program),
            spec,
            data,
            program,
            params={"project": spec.project, "entry_point": spec.entry_point, **spec.params},
            sources={spec.project: code},
        )


def _parameters(project: Path, spec: ProjectTrainerSpec) -> set[str]:
    """Return the names of the parameters that the entry point declares.

    :raises SpecError: the folder is no MLflow Project, or has no such entry point
    """
    import yaml

    try:
        content = yaml.safe_load((project / "MLproject").read_text(encoding="utf-8"))
        entries = dict(content["entry_points"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        raise SpecError(
            f"The folder {spec.project!r} has no valid file MLproject with `entry_points`. Add this file, see MLflow's "
            "documentation of projects."
        ) from None
    if spec.entry_point not in entries:
        raise SpecError(
            f"Project {spec.project!r} has no entry point {spec.entry_point!r}. Its file MLproject has: "
            f"{', '.join(map(repr, entries))}."
        )
    return set((entries[spec.entry_point] or {}).get("parameters") or {})


def _code_hash(project: Path) -> str:
    """Return the SHA-256 of the paths and contents of all files of the project, except caches and hidden files."""
    digest = hashlib.sha256()
    for file in sorted(project.rglob("*")):
        parts = file.relative_to(project).parts
        if file.is_file() and not any(part in _NO_CODE or part.startswith(".") for part in parts):
            digest.update(json.dumps(["/".join(parts), hashlib.sha256(file.read_bytes()).hexdigest()]).encode())
    return digest.hexdigest()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _log(run: TrainingRun | None, tracking: TemporaryTracking, output: Path, folder: Path) -> None:
    """Log the output without credentials, and everything that the project logged, to the run of the training."""
    if run is None:
        return
    logged = folder / "logged"
    logged.mkdir()
    tracking.copy_logged(logged)
    (logged / output.name).write_text(mask(output.read_text(errors="replace")), encoding="utf-8")
    run.log_files(logged, "project")
