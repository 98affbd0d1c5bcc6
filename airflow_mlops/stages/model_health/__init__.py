"""The stage ``model_health``, which waits until monitoring has reported an accepted decision on a model."""
