"""The operator links on a task's page in Airflow: MLflow run, Data Docs and drift report."""

from __future__ import annotations

from airflow_mlops.links.artifacts import DataDocsLink, ReportLink
from airflow_mlops.links.mlflow import MLflowRunLink

__all__ = ["DataDocsLink", "MLflowRunLink", "ReportLink"]
