"""Trainers of PyTorch networks."""
