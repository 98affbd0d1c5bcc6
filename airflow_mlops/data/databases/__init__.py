"""Databases of Airflow connections: how to connect, their errors and types, and tables for predictions."""
