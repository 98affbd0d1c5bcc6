"""The artifact store and its contents: datasets, results, the prediction log."""
