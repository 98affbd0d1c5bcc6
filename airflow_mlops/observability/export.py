"""Export of samples to Airflow's metrics and, if configured, to Prometheus through a text file or the Pushgateway."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_mlops.observability.samples import Sample
from airflow_mlops.settings import prometheus_pushgateway, prometheus_textfile

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_TIMEOUT = 10.0


def export(samples: Sequence[Sample], log: Any) -> None:
    """Export the samples of one model and one group. These samples replace earlier samples of this model and group.

    If an exporter fails, a warning is logged and the task does not fail.

    :param samples: samples with the same model and the same group
    :param log: the task's logger
    """
    if not samples:
        return
    exporters: list[tuple[str, Callable[[], None]]] = [("Airflow's metrics", lambda: _to_airflow(samples))]
    if folder := prometheus_textfile():
        exporters.append((f"the folder {folder}", lambda: _to_textfile(samples, Path(folder))))
    if gateway := prometheus_pushgateway():
        exporters.append((f"the Pushgateway {gateway}", lambda: _to_pushgateway(samples, gateway)))
    for name, run in exporters:
        try:
            run()
        except ImportError as error:
            log.warning("Metrics were not exported to %s: %s. Install airflow-mlops[prometheus].", name, error)
        except Exception as error:  # noqa: BLE001 - the work of the task is done
            log.warning("Metrics were not exported to %s: %s", name, error)


def _to_airflow(samples: Sequence[Sample]) -> None:
    from airflow.sdk.observability import stats

    for metric, value, labels in samples:
        # InfluxDB's line protocol, an option of StatsD, does not allow empty tags.
        stats.gauge(metric.name, value, tags={name: text for name, text in labels.items() if text})


def _to_textfile(samples: Sequence[Sample], folder: Path) -> None:
    from prometheus_client import write_to_textfile

    group, model = _key(samples)
    write_to_textfile(str(folder / f"airflow_mlops_{group}_{quote(model, safe='')}.prom"), _registry(samples))


def _to_pushgateway(samples: Sequence[Sample], gateway: str) -> None:
    from prometheus_client import push_to_gateway

    group, model = _key(samples)
    job = f"airflow_mlops_{group}"
    push_to_gateway(gateway, job=job, registry=_registry(samples), grouping_key={"model": model}, timeout=_TIMEOUT)


def _key(samples: Sequence[Sample]) -> tuple[str, str]:
    return samples[0].metric.group, samples[0].labels["model"]


def _registry(samples: Sequence[Sample]) -> CollectorRegistry:
    from prometheus_client import CollectorRegistry, Gauge

    registry = CollectorRegistry()
    metrics = {sample.metric for sample in samples}
    gauges = {item: Gauge(item.prometheus, item.help, item.labels, registry=registry) for item in metrics}
    for metric, value, labels in samples:
        gauges[metric].labels(**labels).set(value)
    return registry
