"""The command ``airflow mlops init`` proposes the DAGs of a model from its data."""
