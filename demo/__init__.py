"""The demo: runs Airflow and MLflow on this machine and replays a year of flights through the example DAGs."""
