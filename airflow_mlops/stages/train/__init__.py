"""The stage ``train``, which fits one candidate and registers it."""
