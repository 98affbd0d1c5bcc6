"""The artifact store and what is kept in it: datasets, results, the prediction log."""
