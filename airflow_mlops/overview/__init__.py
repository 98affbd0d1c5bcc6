"""The facts about each model, which the pages in Airflow, the JSON API and ``airflow mlops models`` show.

The facts come from the ledger, the monitoring reports and the predictions. An index in the artifact store has the
newest of them, so that a page with many models takes few requests.
"""
