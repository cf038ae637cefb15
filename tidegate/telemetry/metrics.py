"""Prometheus metrics from the list in `names`, with children cached so that a request pays no look-up by label."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from tidegate.telemetry.names import METRICS, Metric

Child = Counter | Gauge | Histogram
_KINDS: dict[str, type[Counter] | type[Gauge]] = {"counter": Counter, "gauge": Gauge}
MAX_SERIES_PER_METRIC = 10_000


class Metrics:
    """The process's metrics; one instance, built by the composition root."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._parents: dict[str, Child] = {metric.name: self._make(metric) for metric in METRICS}
        self._children: dict[tuple[str, ...], Child] = {}

    def _make(self, metric: Metric) -> Child:
        if metric.kind == "histogram":
            return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self.registry)
        return _KINDS[metric.kind](metric.name, metric.help, metric.labels, registry=self.registry)

    def _child(self, metric: Metric, labels: tuple[str, ...]) -> Child:
        key = (metric.name, *labels)
        child = self._children.get(key)
        if child is None:
            if len(self._children) >= MAX_SERIES_PER_METRIC:
                labels = tuple("other" for _ in labels)
            parent = self._parents[metric.name]
            child = parent.labels(*labels) if labels else parent
            self._children[key] = child
        return child

    def count(self, metric: Metric, *labels: str, by: float = 1) -> None:
        """Adds to a counter."""
        self._child(metric, labels).inc(by)  # type: ignore[union-attr]

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Adds an observation to a histogram."""
        self._child(metric, labels).observe(value)  # type: ignore[union-attr]

    def watch(self, metric: Metric, value: Callable[[], float]) -> None:
        """Makes a gauge read `value` whenever it is asked for."""
        self._child(metric, ()).set_function(value)  # type: ignore[union-attr]

    def set(self, metric: Metric, value: float) -> None:
        """Sets a gauge."""
        self._child(metric, ()).set(value)  # type: ignore[union-attr]

    def render(self) -> bytes:
        """The exposition text; blocks for tens of milliseconds with many series, so call it in a thread."""
        return generate_latest(self.registry)
