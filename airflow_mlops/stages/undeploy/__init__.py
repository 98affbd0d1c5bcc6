"""The stage ``undeploy``, which records that an endpoint is removed."""
