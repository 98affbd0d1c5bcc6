"""Training on several nodes by Kubeflow Trainer."""
