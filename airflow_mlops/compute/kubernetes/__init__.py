"""Pods as JSON: how they are put together, and why they fail. Imports no Kubernetes client."""
