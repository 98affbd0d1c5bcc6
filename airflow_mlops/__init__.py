"""The machine-learning lifecycle as Airflow operators."""

__version__ = "0.1.0"
