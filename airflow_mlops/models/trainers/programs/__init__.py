"""Trainers that run a program of the user, and take the model that the program logs to MLflow.

The program runs in a process of its own. The program gets the rows as Parquet files, and logs to a temporary MLflow
store of its own. Therefore only models of this program are found there, however they were logged. The program cannot
overwrite the metrics and parameters of the training.
"""
