"""What an endpoint counts, for Prometheus. The labels of each number are bounded, whatever clients send."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BANDS_GEV = (10, 25, 50, 100, 200, 350, 500)
_BAND_NAMES = [f"<= {edge} GeV" for edge in _BANDS_GEV] + [f"> {_BANDS_GEV[-1]} GeV"]
_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.1, 0.25, 1, 5, 30, 120)

Record = Callable[..., None]  # (value, **labels)


class Meter(Protocol):
    """Where numbers go: a registry of Prometheus, or the metrics of Ray."""

    def counter(self, name: str, text: str, labels: Sequence[str]) -> Record:
        """Make a number that grows."""
        ...

    def gauge(self, name: str, text: str, labels: Sequence[str]) -> Record:
        """Make a number that is set."""
        ...

    def histogram(self, name: str, text: str, labels: Sequence[str], buckets: Sequence[float]) -> Record:
        """Make a distribution."""
        ...


class PrometheusMeter:
    """A registry of Prometheus, which `generate_latest` writes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def counter(self, name: str, text: str, labels: Sequence[str]) -> Record:
        """Make a number that grows."""
        metric = Counter(name, text, labels, registry=self.registry)
        return lambda value, **values: metric.labels(**values).inc(value)

    def gauge(self, name: str, text: str, labels: Sequence[str]) -> Record:
        """Make a number that is set."""
        metric = Gauge(name, text, labels, registry=self.registry)
        return lambda value, **values: (metric.labels(**values) if values else metric).set(value)

    def histogram(self, name: str, text: str, labels: Sequence[str], buckets: Sequence[float]) -> Record:
        """Make a distribution."""
        metric = Histogram(name, text, labels, registry=self.registry, buckets=buckets)
        return lambda value, **values: metric.labels(**values).observe(value)


class Metrics:
    """The numbers of an endpoint."""

    def __init__(self, meter: Meter) -> None:
        model = ("model", "version", "precision")
        self._showers = meter.counter(
            "calogan_showers_total", "Showers sent, by energy of the primary particle.", (*model, "energy")
        )
        self._requests = meter.counter(
            "calogan_requests_total", "Requests for showers, by outcome.", ("client", "encoding", "outcome")
        )
        self._seconds = meter.histogram(
            "calogan_request_seconds", "From a whole request to the end of its response.", ("encoding",), _SECONDS
        )
        self._first = meter.histogram(
            "calogan_first_byte_seconds", "From a whole request to its first bytes.", ("encoding",), _SECONDS
        )
        self._waiting = meter.gauge("calogan_waiting_showers", "Showers asked for and not yet drawn.", ())
        self._running = meter.gauge("calogan_running_requests", "Requests being drawn or sent.", ())
        self._info = meter.gauge("calogan_model_info", "1 for each generator that is served.", model)

    def serve(self, model: Mapping[str, str]) -> None:
        """Record a generator by its model, version and precision."""
        self._info(1, **model)

    def drawn(self, model: Mapping[str, str], energy: NDArray[np.float32]) -> None:
        """Count showers by their energies, shape (n,), GeV."""
        bands = np.bincount(np.searchsorted(_BANDS_GEV, energy), minlength=len(_BAND_NAMES))
        for name, count in zip(_BAND_NAMES, bands.tolist(), strict=True):
            if count:
                self._showers(count, **model, energy=name)

    def began(self, encoding: str, seconds: float) -> None:
        """Record the time until the first bytes of a response."""
        self._first(seconds, encoding=encoding)

    def ended(self, client: str, encoding: str, outcome: str, seconds: float) -> None:
        """Record the end of a request."""
        self._requests(1, client=client, encoding=encoding, outcome=outcome)
        self._seconds(seconds, encoding=encoding)

    def load(self, *, waiting: int, running: int) -> None:
        """Record how busy the endpoint is."""
        self._waiting(waiting)
        self._running(running)
