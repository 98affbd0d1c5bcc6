"""Hooks: the connections that this package brings to Airflow."""
