"""The step of a canary that a ledger entry records."""

from __future__ import annotations

from airflow_mlops.core.base import Model
from airflow_mlops.core.references import ModelVersionRef


class CanaryStep(Model):
    """A step of a canary rollout.

    A canary is a version that answers a share of the requests while it is compared with the champion.

    :param version: the canary
    :param share: the share of the requests that the canary answers from this step on, 0 to 1; 0 after a promotion or a
        withdrawal
    :param looks: number of comparisons with the champion so far, including the comparison of this step
    :param labels: number of labelled predictions of the canary in the last comparison
    """

    version: ModelVersionRef
    share: float
    looks: int = 0
    labels: int = 0
