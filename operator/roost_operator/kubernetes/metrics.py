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
    """The pool does not exist any more."""
    UNREADABLE = "unreadable"
    """The spec cannot be read, as the pool's conditions say."""
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
        """Times a reconciliation. The caller reports its result by the function that is yielded; an exception is a
        failure."""
        started, results = time.perf_counter(), [Result.FAILED]
        try:
            yield results.append
        except BaseException:
            results.append(Result.FAILED)
            raise
        finally:
            self._seconds.labels(results[-1].value).observe(time.perf_counter() - started)

    def lead(self, leads: bool) -> None:
        """Sets whether this operator leads, or waits for another."""
        self.leads = leads
        self._leader.set(int(leads))

    def changed(self, calls: int) -> None:
        self._changes.inc(calls)

    def depth_from(self, depth: Callable[[], int]) -> None:
        """Reads the queue's depth from `depth` at each scrape."""
        self._depth.set_function(depth)

    def serve(self, host: str, port: int) -> None:
        """Serves `/metrics` in a thread, until `close`. Raises OSError when the port is taken."""
        self._server, self._thread = start_http_server(port, host, registry=self.registry)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
