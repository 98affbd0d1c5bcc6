"""Summary of the prediction log, for ``airflow mlops predictions``."""
