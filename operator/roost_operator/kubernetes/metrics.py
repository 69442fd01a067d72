"""The operator's metrics, in Prometheus' text."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server


class Result(StrEnum):
    """How a reconciliation ended."""

    CHANGED = "changed"
    """Something was written, to the API server or to the store."""
    UNCHANGED = "unchanged"
    ABSENT = "absent"
    """There is no such pool any more."""
    UNREADABLE = "unreadable"
    """The spec cannot be read, and that is said in the pool's conditions."""
    FAILED = "failed"


class Metrics:
    """What the operator does, and how long that takes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "roost_operator_reconcile_seconds",
            "Time of a reconciliation, by how it ended.",
            ["result"],
            registry=self.registry,
        )
        for result in Result:
            self._seconds.labels(result.value)
        self._changes = Counter(
            "roost_operator_mutating_calls_total", "Calls that changed something.", registry=self.registry
        )
        self._depth = Gauge(
            "roost_operator_queue_depth", "Pools that wait for their reconciliation.", registry=self.registry
        )
        self.leads = False
        self._leader = Gauge("roost_operator_leader", "1 while this operator leads.", registry=self.registry)

    @contextmanager
    def reconciling(self) -> Iterator[Callable[[Result], None]]:
        """Times a reconciliation; whoever ends it says how, an exception says that it failed."""
        started, results = time.perf_counter(), [Result.FAILED]
        try:
            yield results.append
        except BaseException:
            results.append(Result.FAILED)
            raise
        finally:
            self._seconds.labels(results[-1].value).observe(time.perf_counter() - started)

    def lead(self, leads: bool) -> None:
        """Tells whether this operator works, or waits for another."""
        self.leads = leads
        self._leader.set(int(leads))

    def changed(self, calls: int) -> None:
        self._changes.inc(calls)

    def depth_from(self, depth: Callable[[], int]) -> None:
        """The queue's depth is asked for whenever somebody looks."""
        self._depth.set_function(depth)

    def serve(self, host: str, port: int) -> None:
        """Serves `/metrics` in a thread. Raises OSError when the port is taken."""
        start_http_server(port, host, registry=self.registry)
