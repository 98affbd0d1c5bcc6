"""The stage ``forecast_rows``, which makes rows with lag features and target times from the values of many series."""
