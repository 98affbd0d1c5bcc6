"""``airflow mlops``: the commands that this provider adds to Airflow's own."""
