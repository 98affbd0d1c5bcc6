"""Everything that knows the Kubernetes objects of an online endpoint: manifests, rollout, verification."""
