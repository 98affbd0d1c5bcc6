"""The Airflow triggers of sensors and asset watchers. The Airflow triggers of pods are in ``compute/kubernetes``."""
