"""The JSON API under ``/mlops/api``, which the pages in Airflow use."""
