"""Databases of Airflow connections: how they are reached and why they fail."""
