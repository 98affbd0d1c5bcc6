"""Trainers that run a program of the user, and take the model that the program logs to MLflow.

The program runs in a separate process. The program gets the rows as Parquet files, and logs to a separate, temporary
MLflow store. The store therefore contains only models of this program, and the program cannot overwrite the metrics and
parameters of the training."""
