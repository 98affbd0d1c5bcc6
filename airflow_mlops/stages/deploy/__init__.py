"""The stage ``deploy``, which chooses the version for an endpoint and records the endpoint."""
