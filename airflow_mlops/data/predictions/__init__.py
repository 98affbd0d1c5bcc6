"""Predictions in the artifact store: their log for each time window, their versions, and their pseudonymisation."""
