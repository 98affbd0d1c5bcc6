"""MLflow: runs that survive retries, model versions, aliases, and the ledger of decisions."""
