"""OpenLineage support: the inputs and outputs of each step as OpenLineage datasets.

Airflow imports this package only when apache-airflow-providers-openlineage extracts the lineage of a task.
"""

from airflow_mlops.lineage.steps import lineage_of

__all__ = ["lineage_of"]
