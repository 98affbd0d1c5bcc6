"""Train, export, load and score models, and store their contracts."""
