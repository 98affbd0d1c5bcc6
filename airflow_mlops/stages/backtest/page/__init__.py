"""The HTML page of a backtest."""
