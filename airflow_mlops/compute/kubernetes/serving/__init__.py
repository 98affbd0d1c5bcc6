"""The Kubernetes objects of an online endpoint: manifests, rollout and verification."""
