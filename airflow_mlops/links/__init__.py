"""The operator links on a task's page in Airflow: MLflow run, Data Docs, drift report and endpoint."""

from __future__ import annotations

from airflow_mlops.links.artifacts import DataDocsLink, ReportLink
from airflow_mlops.links.endpoint import EndpointLink
from airflow_mlops.links.mlflow import MLflowRunLink

__all__ = ["DataDocsLink", "EndpointLink", "MLflowRunLink", "ReportLink"]
