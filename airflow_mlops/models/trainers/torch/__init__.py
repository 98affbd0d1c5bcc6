"""Training PyTorch networks."""
