"""What the gateway counts. Labels are names of models that are served, never what strangers send."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from swarm.gateway.admission import Admission

_FIRST = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BETWEEN = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0)
"""Seconds: upper bounds of the histograms' classes."""


class Metrics:
    """Counters of one gateway.

    Attributes:
        registry: What /metrics shows.
        requests: Answered ones, by model ("" if none was found) and HTTP status; 499: the sender hung up.
        prompt_tokens: Of prompts that were let in, by model.
        answer_tokens: Made, by model.
        first_token: Seconds from a request to the first piece of its answer, by model.
        between_tokens: Seconds between the pieces of a text, by model.
        failovers: Hops that were replaced, by model.
    """

    def __init__(self, admission: Admission) -> None:
        self.registry = CollectorRegistry()
        one, two = ("model",), ("model", "status")
        name = "swarm_gateway_"
        self.requests = Counter(f"{name}requests", "Requests that were answered", two, registry=self.registry)
        self.prompt_tokens = Counter(f"{name}prompt_tokens", "Tokens of prompts", one, registry=self.registry)
        self.answer_tokens = Counter(f"{name}answer_tokens", "Tokens made", one, registry=self.registry)
        self.failovers = Counter(f"{name}failovers", "Hops that were replaced", one, registry=self.registry)
        self.first_token = Histogram(
            f"{name}first_token_seconds",
            "From a request to its first token",
            one,
            buckets=_FIRST,
            registry=self.registry,
        )
        self.between_tokens = Histogram(
            f"{name}between_tokens_seconds", "Between tokens", one, buckets=_BETWEEN, registry=self.registry
        )
        running = Gauge(f"{name}running", "Texts that are written now", registry=self.registry)
        running.set_function(lambda: admission.num_running)
        waiting = Gauge(f"{name}waiting", "Texts that wait for their turn", registry=self.registry)
        waiting.set_function(lambda: admission.num_waiting)
