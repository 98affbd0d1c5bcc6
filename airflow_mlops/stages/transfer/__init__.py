"""The stage ``transfer``, which copies a model version with its evidence to another registered model."""
