"""Rows on their way from a source into a dataset: the types of their columns, and the sizes of batches."""
