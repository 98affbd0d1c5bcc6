"""The stage ``train``, which trains one candidate and registers the candidate as a model version."""
