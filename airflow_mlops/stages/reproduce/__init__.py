"""The stage ``reproduce``, which trains a registered version again and compares the result."""
