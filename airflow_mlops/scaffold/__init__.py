"""Propose the DAGs of a model from its data: ``airflow mlops init``."""
