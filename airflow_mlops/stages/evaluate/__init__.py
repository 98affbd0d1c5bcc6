"""The stage ``evaluate``, which measures candidates and checks them against gates."""
