"""The demonstration: a real Airflow and MLflow on this machine, and a year of flights replayed through the example DAGs."""
