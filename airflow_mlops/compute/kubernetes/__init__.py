"""Everything that knows Kubernetes: the description ``Pod``, its manifest, the operator that runs it, and failures."""
