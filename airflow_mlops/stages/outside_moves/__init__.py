"""The stage ``outside_moves``, which records changes of the champion that were made in MLflow."""
