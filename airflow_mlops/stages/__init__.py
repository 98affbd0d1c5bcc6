"""The steps of the machine-learning lifecycle, with one folder per stage.

``STAGE/spec.py`` defines the parameters and the result of a step. ``STAGE/step.py`` defines the function that runs it::

    def run(spec: StageSpec, context: StepContext) -> StageResult

No module of this package imports Airflow. ``python -m airflow_mlops.stages`` runs one step in a separate process.
"""
