"""Names of tags and files in MLflow runs that more than one stage uses."""

from __future__ import annotations

# Tag of a candidate's run: the id of the MLflow run of the search that found its parameters.
SEARCH_TAG = "mlops.search"
# Tag of the run of a search that continued after an interruption.
RESUMED_TAG = "mlops.resumed"
# Tags of a refitted version (fitted again on all rows) and of its run: number and MLflow run of the judged version,
# which is the version that passed the gates.
REFIT_OF_TAG, JUDGED_RUN_TAG = "mlops.refit_of", "mlops.judged_run"
# Tag of the judged version and of its run: number of the refitted version.
REFIT_TAG = "mlops.refit"
# Prefix of the names of metrics that were measured on rows to which the model was fitted.
IN_SAMPLE = "in_sample_"
# Prefix of the tags of a run with the resources that each step used (airflow_mlops.core.usage.Usage).
USAGE_TAG = "mlops.usage"
# Tag of a run: number and names of the GPUs that the run used.
GPU_TAG = "mlops.gpu"
# Files of a training's MLflow run with the spec, the hashes of the code, and the versions of the packages.
TRAINING_FILE, CODE_FILE, ENVIRONMENT_FILE = "training.json", "code.json", "environment.json"
# Folder of an evaluation in a candidate's MLflow run, and the files in this folder that record the decision.
EVALUATION_FOLDER, CARD_FILES = "evaluation", ("model_card.html", "model_card.md", "verdict.json")
#: Tags of a version that became champion: the number and the SHA-256 of the ledger entry of its last change.
LEDGER_TAG, HASH_TAG = "mlops.ledger_entry", "mlops.ledger_sha256"
