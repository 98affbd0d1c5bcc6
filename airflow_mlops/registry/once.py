"""MLflow's client, but with a single check that a registered model is not a prompt.

Prompts are registered models with a tag that MLflow sets when it creates them. MLflow's client reads the registered
model before each change of a tag or an alias, to refuse changes of prompts. In a promotion, these are seven requests.
"""

from __future__ import annotations

from mlflow import MlflowClient


class Client(MlflowClient):
    """``MlflowClient`` that reads a registered model once to check that it is not a prompt.

    If the model is deleted later, the server refuses the change itself.

    :param uri: tracking URI, which is also the URI of the registry
    """

    def __init__(self, uri: str) -> None:
        super().__init__(uri, uri)
        self._models: set[str] = set()

    def _raise_if_prompt(self, name: str) -> None:
        if name not in self._models:
            super()._raise_if_prompt(name)
            self._models.add(name)
