"""From plain numbers to what Prometheus reads, taken anew at each request: nothing is counted twice, or for nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client import Metric as Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

Values = float | Mapping[str, float]
"""One number, or one for each value of a label."""


def gauge(name: str, text: str, values: Values, label: str = "") -> Metric:
    """Return a number that goes up and down; with `label`, one for each of its values."""
    return _filled(GaugeMetricFamily(name, text, labels=[label] if label else []), values)


def counter(name: str, text: str, values: Values, label: str = "") -> Metric:
    """Return a number that only grows; `name` ends in _total."""
    return _filled(CounterMetricFamily(name.removesuffix("_total"), text, labels=[label] if label else []), values)


def facts(name: str, text: str, labels: Mapping[str, str]) -> Metric:
    """Return words about what is measured: the constant 1, with them as labels; `name` ends in _info."""
    family = GaugeMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def registry_of(read: Callable[[], Iterable[Metric]]) -> CollectorRegistry:
    """Return a registry that calls `read` at each request; the process's own memory, time and files are in it too."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Read(read))
    return registry


class _Read(Collector):
    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()

    def describe(self) -> Iterator[Metric]:
        yield from ()  # else it would be read once, to learn the names, before there is anything to read


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Values) -> Metric:
    for value, number in values.items() if isinstance(values, Mapping) else [(None, values)]:
        family.add_metric([] if value is None else [value], number)
    return family
