"""The work of each stage. A step module ``steps/NAME.py`` defines::

    def run(spec: NameSpec, context: StepContext) -> NameResult

and nothing in it or below it imports Airflow. ``python -m airflow_mlops.stages`` runs one call.
"""
