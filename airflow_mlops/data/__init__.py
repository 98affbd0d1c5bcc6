"""The artifact store and its contents: datasets, step results and the prediction log."""
