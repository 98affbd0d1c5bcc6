"""The hook for MLflow, the connection type that this package adds to Airflow."""
