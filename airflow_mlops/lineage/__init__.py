"""The inputs and outputs of a step as OpenLineage datasets.

This package is imported only when apache-airflow-providers-openlineage extracts the lineage of a task.
"""

from airflow_mlops.lineage.steps import lineage_of

__all__ = ["lineage_of"]
