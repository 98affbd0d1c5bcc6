"""One folder per stage of the machine-learning lifecycle.

``STAGE/spec.py`` defines the parameters and the result of a step. ``STAGE/step.py`` does the work::

    def run(spec: StageSpec, context: StepContext) -> StageResult

Nothing in this package imports Airflow. ``python -m airflow_mlops.stages`` runs one call of a step.
"""
