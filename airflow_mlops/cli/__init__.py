"""The commands ``airflow mlops``, which this provider adds to Airflow's command line."""
