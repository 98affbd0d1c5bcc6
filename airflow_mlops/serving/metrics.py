"""Prometheus metrics of the server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_ROWS = (1, 2, 5, 10, 50, 100, 1_000, 10_000, 100_000)


class Metrics:
    """The metrics of one server, in a separate registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mlops_serve_requests",
            "Requests, by path of the API and HTTP status",
            ["call", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "mlops_serve_seconds", "Time of requests for predictions", buckets=_SECONDS, registry=self.registry
        )
        self.rows = Histogram(
            "mlops_serve_rows", "Rows of requests for predictions", buckets=_ROWS, registry=self.registry
        )
        self.lookups = Histogram(
            "mlops_serve_lookup_seconds",
            "Time of the lookups of features in Feast's online store, including the wait for earlier lookups",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.version = Gauge("mlops_serve_version", "Version number of the served champion", registry=self.registry)
        self.spooled = Gauge(
            "mlops_serve_log_spooled_bytes",
            "Logged predictions that are not yet in the artifact store",
            registry=self.registry,
        )
        self.lag = Gauge(
            "mlops_serve_log_lag_seconds",
            "Age of the oldest prediction that is not yet in the artifact store",
            registry=self.registry,
        )
        self.damaged = Gauge(
            "mlops_serve_log_damaged_files",
            "Files of the spool that are kept because they are damaged",
            registry=self.registry,
        )
        self.dropped = Counter(
            "mlops_serve_log_dropped_rows",
            "Predictions that were not logged, for example because the spool is full",
            registry=self.registry,
        )
        self.access_dropped = Counter(
            "mlops_serve_access_log_dropped_lines",
            "Lines of the access log that were not written, because standard output was not read",
            registry=self.registry,
        )
        self.version_requests = Counter(
            "mlops_serve_version_requests",
            "Requests for predictions that a version has answered (status: answered) or failed to answer (failed)",
            ["version", "status"],
            registry=self.registry,
        )
        self.version_seconds = Histogram(
            "mlops_serve_version_seconds",
            "Time that a version took to predict the rows of a request",
            ["version"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.canary_version = Gauge(
            "mlops_serve_canary_version",
            "Number of the version that answers a share of the requests; 0 if none is loaded",
            registry=self.registry,
        )
        self.canary_share = Gauge(
            "mlops_serve_canary_share", "Share of the requests that this version answers", registry=self.registry
        )
        self.canary_withdrawn = Gauge(
            "mlops_serve_canary_withdrawn_version",
            "Number of the canary version that the server withdrew, because it did worse than the champion; 0 if none was withdrawn",
            registry=self.registry,
        )
        self.shadow_version = Gauge(
            "mlops_serve_shadow_version",
            "Number of the version that scores in the shadow; 0 if none is loaded",
            registry=self.registry,
        )
        self.shadow_rows = Counter("mlops_serve_shadow_rows", "Rows scored in the shadow", registry=self.registry)
        self.shadow_errors = Counter(
            "mlops_serve_shadow_failed_rows", "Rows that the shadow failed to score", registry=self.registry
        )
        self.shadow_dropped = Counter(
            "mlops_serve_shadow_dropped_rows",
            "Rows that were not scored in the shadow, because it was not ready or too slow",
            registry=self.registry,
        )
        self.shadow_unlogged = Gauge(
            "mlops_serve_shadow_unlogged_rows",
            "Rows that the running shadow scored and could not log",
            registry=self.registry,
        )

        # Metrics with their labels, which are kept because each call of `labels` takes time.
        self._counters: dict[tuple[str, int], Counter] = {}
        self._of_versions: dict[int, tuple[Counter, Counter, Histogram]] = {}

    def count(self, call: str, status: int) -> None:
        """Count a request."""
        counter = self._counters.get((call, status))
        if counter is None:
            counter = self._counters[call, status] = self.requests.labels(call, status)
        counter.inc()

    def count_of_version(self, version: int, seconds: float, *, failed: bool) -> None:
        """Count a request to a version, and record the time that the version took.

        :param version: number of the version
        :param seconds: time that the version took to predict the rows
        :param failed: whether the version failed to predict the rows
        """
        found = self._of_versions.get(version)
        if found is None:
            found = self._of_versions[version] = (
                self.version_requests.labels(version, "answered"),
                self.version_requests.labels(version, "failed"),
                self.version_seconds.labels(version),
            )
        answered, unanswered, times = found
        (unanswered if failed else answered).inc()
        times.observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return bytes(generate_latest(self.registry))
