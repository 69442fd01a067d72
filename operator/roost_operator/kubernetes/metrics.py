"""The operator's metrics, in Prometheus' text."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server


class Metrics:
    """Counts reconciliations."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "roost_operator_reconcile_seconds", "Time of a reconciliation.", registry=self.registry
        )
        self._failures = Counter(
            "roost_operator_reconcile_failures_total", "Reconciliations that failed.", registry=self.registry
        )
        self._changes = Counter(
            "roost_operator_mutating_calls_total", "Calls that changed something.", registry=self.registry
        )
        self.leads = False
        self._leader = Gauge("roost_operator_leader", "1 while this operator leads.", registry=self.registry)

    @contextmanager
    def reconciling(self) -> Iterator[None]:
        """Times a reconciliation, and counts it when it fails."""
        started = time.perf_counter()
        try:
            yield
        except BaseException:
            self._failures.inc()
            raise
        finally:
            self._seconds.observe(time.perf_counter() - started)

    def lead(self, leads: bool) -> None:
        """Tells whether this operator works, or waits for another."""
        self.leads = leads
        self._leader.set(int(leads))

    def changed(self, calls: int) -> None:
        self._changes.inc(calls)

    def serve(self, host: str, port: int) -> None:
        """Serves `/metrics` in a thread. Raises OSError when the port is taken."""
        start_http_server(port, host, registry=self.registry)
