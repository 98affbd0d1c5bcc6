"""Names of tags and files in MLflow runs that more than one stage uses."""

from __future__ import annotations

# Tag of a candidate's run: the id of the MLflow run of the search that found its parameters.
SEARCH_TAG = "mlops.search"
# Tag of a run: number and names of the GPUs that the run used.
GPU_TAG = "mlops.gpu"
# Files of a training's MLflow run with the spec, the hashes of the code, and the versions of the packages.
TRAINING_FILE, CODE_FILE, ENVIRONMENT_FILE = "training.json", "code.json", "environment.json"
