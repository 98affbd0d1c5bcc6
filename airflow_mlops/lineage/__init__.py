"""What a step read and made, in OpenLineage's words.

Imported only when apache-airflow-providers-openlineage asks a task for its lineage; without the provider nothing here is.
"""

from airflow_mlops.lineage.steps import lineage_of

__all__ = ["lineage_of"]
