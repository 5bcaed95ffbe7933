"""What Prometheus reads of the swarm as a whole: the board's state, as it is when asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from swarm.clock import Clock
from swarm.monitor.board import Board
from swarm.monitor.state import Level, ModelState, Standing


class SwarmGauges(Collector):
    """Turns the board's state into metrics whenever they are asked for."""

    def __init__(self, board: Board, clock: Clock) -> None:
        self._board = board
        self._clock = clock

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics of all models, then those of the monitor itself."""
        models = self._board.state.models
        yield _of_each("swarm_model_blocks", "Blocks of the model.", models, lambda model: model.num_blocks)
        yield _of_each("swarm_model_blocks_covered", "Blocks with a server.", models, lambda model: model.num_covered)
        yield _of_each("swarm_model_servers_fewest", "Servers of the weakest block.", models, lambda m: m.fewest)
        yield _of_each(
            "swarm_model_tokens_per_second", "Decode throughput of the whole model.", models, lambda model: model.per_s
        )
        servers = GaugeMetricFamily("swarm_model_servers", "Servers by standing.", labels=["model", "standing"])
        alerts = GaugeMetricFamily("swarm_model_alerts", "Alerts by level.", labels=["model", "level"])
        for model in models:
            for standing in Standing:
                servers.add_metric([model.name, standing.value], model.count(standing))
            for level in Level:
                number = sum(alert.level is level for alert in model.alerts)
                alerts.add_metric([model.name, level.value], number)
        yield servers
        yield alerts
        age = self._clock.unix() - self._board.state.taken_at
        yield _alone("swarm_monitor_view_age_seconds", "Since the directory was last seen.", age)
        yield _alone("swarm_monitor_healthy", "Whether the last look found the swarm.", not self._board.state.problem)
        yield _alone("swarm_monitor_event_streams", "Open event streams.", self._board.num_readers)


def registry_of(board: Board, clock: Clock) -> CollectorRegistry:
    """Return a registry with the swarm's metrics only."""
    registry = CollectorRegistry()
    registry.register(SwarmGauges(board, clock))
    return registry


def _of_each(name: str, text: str, models: Iterable[ModelState], value: Callable[[ModelState], float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["model"])
    for model in models:
        family.add_metric([model.name], value(model))
    return family


def _alone(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))
