"""Summarise the prediction log for the command ``airflow mlops predictions``."""
