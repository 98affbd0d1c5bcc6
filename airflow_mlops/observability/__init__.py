"""Export of model metrics to Airflow's metrics and to Prometheus."""
