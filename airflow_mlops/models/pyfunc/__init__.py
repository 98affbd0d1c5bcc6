"""Models that MLflow can load and TrainOperator did not make."""
