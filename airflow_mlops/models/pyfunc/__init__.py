"""Load and score MLflow models that TrainOperator did not train."""
