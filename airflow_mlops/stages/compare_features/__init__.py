"""The stage ``compare_features``, which compares the features that a server looked up with the point-in-time join."""
