"""Backtest: replay a retraining policy over labelled windows of the past."""
