"""Names of tags and files in MLflow runs that more than one stage uses."""

from __future__ import annotations

# Tag of a candidate's run: the run of the search that found its parameters.
SEARCH_TAG = "mlops.search"
# Tag of a run: the GPUs that it used.
GPU_TAG = "mlops.gpu"
# Files of a training's run: its spec, the hashes of its code, and the versions of its packages.
TRAINING_FILE, CODE_FILE, ENVIRONMENT_FILE = "training.json", "code.json", "environment.json"
