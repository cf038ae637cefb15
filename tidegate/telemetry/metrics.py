"""Prometheus metrics from the list in `names`, with children cached so that a request pays no look-up by label."""

import os
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from tidegate.telemetry.names import METRICS, Metric

Child = Counter | Gauge | Histogram
MAX_SERIES_PER_METRIC = 10_000
_MOST_VALUES = 1000


class Metrics:
    """The process's metrics; one instance, built by the composition root, for one thread.

    What requests count is kept in plain dictionaries and added to the registry when somebody looks, or when there is much
    of it: the registry's own counters cost ten times as much.
    """

    def __init__(self, shared: "SharedPlace | None" = None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._shared = shared
        if shared is not None:
            shared.take()
        self.registry = CollectorRegistry()
        self._parents: dict[str, Child] = {metric.name: self._make(metric) for metric in METRICS}
        self._children: dict[tuple[str, ...], Child] = {}
        self._watched: dict[Metric, Callable[[], Mapping[tuple[str, ...], float]]] = {}
        self._shown: dict[Metric, set[tuple[str, ...]]] = {}
        self._counted: dict[tuple[Metric, tuple[str, ...]], list[float]] = {}
        """Each in a list of its own, so that it is looked up once."""
        self._observed: dict[tuple[Metric, tuple[str, ...]], list[float]] = {}

    def _make(self, metric: Metric) -> Child:
        if metric.kind == "histogram":
            return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self.registry)
        if metric.kind == "gauge":
            across = metric.across
            return Gauge(metric.name, metric.help, metric.labels, registry=self.registry, multiprocess_mode=across)
        return Counter(metric.name, metric.help, metric.labels, registry=self.registry)

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
        key = (metric, labels)
        counted = self._counted.get(key)
        if counted is None:
            if len(self._counted) >= _MOST_VALUES:
                self.fold()
            counted = self._counted[key] = [0.0]
        counted[0] += by

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Adds an observation to a histogram."""
        key = (metric, labels)
        values = self._observed.get(key)
        if values is None:
            values = self._observed[key] = []
        values.append(value)
        if len(values) >= _MOST_VALUES:
            self.fold()

    def fold(self) -> None:
        """Adds what was counted since the last time to the registry."""
        counted, self._counted = self._counted, {}
        observed, self._observed = self._observed, {}
        for (metric, labels), (by,) in counted.items():
            self._child(metric, labels).inc(by)  # type: ignore[union-attr]
        for (metric, labels), seen in observed.items():
            _add(self._child(metric, labels), seen)
        for metric, look in self._watched.items():
            seen_now = look()
            for labels in self._shown.get(metric, set()) - seen_now.keys():
                self.set(metric, 0, *labels)
            for labels, value in seen_now.items():
                self.set(metric, value, *labels)
            self._shown[metric] = set(seen_now)

    def watch(self, metric: Metric, look: Callable[[], Mapping[tuple[str, ...], float]]) -> None:
        """Makes a gauge show what `look` says by labels whenever the metrics are folded; what it leaves out is 0 again."""
        self._watched[metric] = look

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """Sets a gauge."""
        self._child(metric, labels).set(value)  # type: ignore[union-attr]

    def render(self) -> bytes:
        """The exposition text of what was folded; blocks for tens of milliseconds with many series: call it in a thread."""
        return generate_latest(self.registry if self._shared is None else self._shared.registry())


@dataclass(frozen=True, slots=True)
class SharedPlace:
    """One process of several whose metrics add up, in files of prometheus-client's that outlive it."""

    folder: Path
    name: str
    """Which no other living process has; a later one of the same name goes on counting where it stopped."""

    def take(self) -> None:
        """Makes every metric of this process live there; before the first one is made."""
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(self.folder)
        values.ValueClass = values.MultiProcessValue(lambda: self.name)  # type: ignore[no-untyped-call]

    def registry(self) -> CollectorRegistry:
        """What all processes have folded so far."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self.folder))  # type: ignore[no-untyped-call]
        return registry

    def bury(self, name: str) -> None:
        """A process has ended: what it counted stays, what it was doing does not."""
        mark_process_dead(name, str(self.folder))  # type: ignore[no-untyped-call]


def _add(histogram: Child, values: list[float]) -> None:
    """As `observe` for each value, but with one addition per bucket: half of what a request's metrics would cost."""
    assert isinstance(histogram, Histogram)  # noqa: S101
    bounds, buckets = histogram._upper_bounds, histogram._buckets
    values.sort()
    below = 0
    for bound, bucket in zip(bounds, buckets, strict=True):
        up_to = bisect_right(values, bound)
        if up_to > below:
            bucket.inc(up_to - below)
            below = up_to
    histogram._sum.inc(sum(values))
