"""Access to MLflow runs, model versions and aliases, and the ledger of decisions about champions."""
