"""The stage ``model_health``, which waits for a report with an accepted decision."""
