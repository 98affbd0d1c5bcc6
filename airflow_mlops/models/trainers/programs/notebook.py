"""Train by running a Jupyter notebook with papermill."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from importlib.util import find_spec
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
from airflow_mlops.models.trainers.spec import NotebookTrainerSpec

# papermill marks the cells that it adds with these tags.
_ADDED = {"injected-parameters", "papermill-error-cell-tag"}
_LONGEST = 500


def fit(spec: NotebookTrainerSpec, data: TrainingData, seed: int, run: TrainingRun | None = None) -> FittedModel:
    """Run the notebook, and take the model that the notebook logged to MLflow.

    :param spec: the trainer
    :param data: the rows to fit a model to
    :param seed: the parameter ``seed`` of the notebook
    :param run: log functions of the training; ``None`` to log nothing
    :raises SpecError: the notebook does not exist, is no Python notebook, or does not have the parameters
    :raises TrainingError: a cell raises an exception, the kernel ends, or the notebook logs no model or several
    :raises ModelFormatError: loading the logged model could run code, or the model has another flavour
    """
    file = find(spec.notebook, "notebook")
    cells = _cells(file)
    if find_spec("papermill") is None or find_spec("ipykernel") is None:
        raise SpecError(
            f"The notebook {spec.notebook!r} needs papermill and ipykernel, which are not installed where the step runs. Install "
            "airflow-mlops[notebook] there; for run_on=Pod, in the image."
        )
    program = f"Notebook {spec.notebook!r}"
    with temporary_folder("notebook") as folder:
        parameters = rows.write(spec, data, seed, run, folder)
        _check_parameters(program, cells, parameters, spec)
        tracking = TemporaryTracking(folder)
        executed, settings = folder / "executed.ipynb", folder / "settings.json"
        settings.write_text(json.dumps({"notebook": str(file), "executed": str(executed), "parameters": parameters}))
        if run is not None:
            run.progress(f"{program} is running.")
        arguments = ["-m", "airflow_mlops.models.trainers.programs.kernel", str(settings)]
        status = process.run(arguments, tracking.environment, folder / "output")
        _log(run, tracking, executed, folder)
        if status:
            raise TrainingError(_failure(program, executed, folder / "output", status))
        return take(
            tracking.model(program),
            spec,
            data,
            program,
            params={"notebook": spec.notebook, **spec.params},
            sources={spec.notebook: SourceFile(file, _code_hash(cells))},
        )


def _cells(file: Path) -> list[dict[str, Any]]:
    """Read the cells of a notebook.

    :raises SpecError: the file is not a notebook in Python
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        cells = list(content["cells"])
        sources = [{**cell, "source": "".join(cell["source"])} for cell in cells]
        language = content.get("metadata", {}).get("kernelspec", {}).get("language") or "python"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise SpecError(f"{str(file)!r} is not a Jupyter notebook of format 4. Save it again with Jupyter.") from None
    if language.lower() != "python":
        raise SpecError(f"The notebook {str(file)!r} is in the language {language!r}, but only Python is supported.")
    return sources


def _code_hash(cells: list[dict[str, Any]]) -> str:
    """Return the SHA-256 of the code of a notebook. Outputs, execution counts and cells without code are ignored."""
    code = [cell["source"] for cell in cells if cell.get("cell_type") == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()


def _tags(cell: dict[str, Any]) -> set[str]:
    return set(cell.get("metadata", {}).get("tags", ()))


def _check_parameters(
    program: str, cells: list[dict[str, Any]], parameters: dict[str, Any], spec: NotebookTrainerSpec
) -> None:
    """Check that the notebook declares the parameters, so that a misspelled parameter is an error.

    :param program: the notebook, as the first words of error messages
    :param cells: the cells of the notebook
    :param parameters: the values of all parameters that the notebook gets, by name
    :param spec: the trainer
    :raises SpecError: the notebook has no cell or several cells with the tag ``parameters``, or this cell does not
        assign a required parameter
    """
    declared = [cell for cell in cells if cell.get("cell_type") == "code" and "parameters" in _tags(cell)]
    if len(declared) != 1:
        raise SpecError(
            f"{program} has {len(declared) or 'no'} cell{'s' if len(declared) > 1 else ''} with the tag 'parameters'. Assign "
            "train_path and your own parameters in one cell, and give it this tag; papermill adds the values after it."
        )
    names = set(_assigned(program, declared[0]["source"]))
    needed = {"train_path", *spec.params, *({"validation_path", "sample_weight"} & parameters.keys())}
    if missing := sorted(needed - names):
        why = " because the rows have weights" if missing == ["sample_weight"] else ""
        raise SpecError(
            f"{program} does not assign {', '.join(map(repr, missing))} in its cell with the tag 'parameters'{why}. Assign a "
            "default there, such as None, or correct the name."
        )


def _assigned(program: str, source: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise SpecError(
            f"The cell with the tag 'parameters' of {program} is not valid Python: {error.msg}. Use only assignments."
        ) from None
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def _failure(program: str, executed: Path, output: Path, status: int) -> str:
    if cells := _executed(executed):
        number = started = 0
        for cell in cells["cells"]:
            number += not _tags(cell) & _ADDED
            for item in cell.get("outputs", ()):
                if item.get("output_type") == "error":
                    line = f"{item.get('ename')}: {' '.join(str(item.get('evalue')).split())}"[:_LONGEST]
                    return f"{program} failed in cell {number}: {line}. Correct the notebook."
            started = number if cell.get("metadata", {}).get("papermill", {}).get("start_time") else started
        if "DeadKernelError" in process.last_line(output):
            return f"The kernel of {program} ended in cell {started}, usually because memory ran out. Use fewer rows or more memory."
    return f"{program} failed with exit status {status}: {process.last_line(output)[:_LONGEST]}."


def _log(run: TrainingRun | None, tracking: TemporaryTracking, executed: Path, folder: Path) -> None:
    """Log the executed notebook without credentials, and everything that it logged, to the run of the training."""
    content = _executed(executed)
    if run is None or content is None:
        return
    logged = folder / "logged"
    logged.mkdir()
    tracking.copy_logged(logged)
    text = json.dumps(_masked(content), indent=1, ensure_ascii=False)
    (logged / executed.name).write_text(text, encoding="utf-8")
    run.log_files(logged, "notebook")


def _executed(file: Path) -> dict[str, Any] | None:
    """Read the executed notebook; return ``None`` if the file is absent or incomplete.

    The file is incomplete if papermill was killed while it wrote the file.
    """
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, list):
        # In a notebook file, a text of several lines is a list of lines.
        return [_masked(item) for item in value]
    return {name: _masked(item) for name, item in value.items()} if isinstance(value, dict) else value
