"""What a column looked like: one module for each kind of column, each with its profile and its counter."""
