"""The engine's own loop: takes messages, iterates, reports. Runs in a thread, or as the main of rank 0."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from roost_worker.config import WorkerConfig
from roost_worker.engine.engine import Engine
from roost_worker.engine.messages import EngineInfo, EngineMessage, Outputs
from roost_worker.engine.plan import Runner
from roost_worker.engine.policies import POLICIES
from roost_worker.seam.report import StatsLog

HEARTBEAT_SECONDS = 0.25
"""Longest silence of an idle loop."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The loop is alive and has nothing to report."""


@dataclass(frozen=True, slots=True)
class Close:
    """Ends the loop."""


@dataclass(frozen=True, slots=True)
class WakeUp:
    """The engine has something to do although no message came."""


Inbox = SimpleQueue[EngineMessage | Close | WakeUp]


@dataclass(slots=True)
class EngineLoop:
    """Blocks on `inbox` when idle; calls `report` with each iteration's Outputs, and with Heartbeat in between."""

    engine: Engine
    inbox: Inbox
    report: Callable[[Outputs | Heartbeat], None]
    stats_log: StatsLog = field(default_factory=StatsLog)

    def run(self) -> None:
        """Run until Close. Raise what the engine raises."""
        busy = False
        last_report = time.monotonic()
        while self._take_messages(busy):
            outputs = self.engine.iterate()
            busy = outputs is not None
            if outputs is not None or time.monotonic() - last_report >= HEARTBEAT_SECONDS:
                self.stats_log.update(outputs.stats if outputs else self.engine.stats)
                self.report(outputs or Heartbeat())
                last_report = time.monotonic()

    def _take_messages(self, busy: bool) -> bool:
        """Handle all messages in the inbox, waiting for the first if not `busy`. Return False at Close."""
        try:
            message = self.inbox.get(block=not busy, timeout=HEARTBEAT_SECONDS)
            while not isinstance(message, Close):
                if not isinstance(message, WakeUp):
                    self.engine.handle(message)
                message = self.inbox.get_nowait()
        except Empty:
            return True
        return False


def build_engine(runner: Runner, config: WorkerConfig, inbox: Inbox) -> Engine:
    """Build the engine that `config` describes; it wakes its loop through `inbox`.

    Raise ValueError when the runner's KV memory has no block to use.
    """
    policy = POLICIES[config.kv.eviction_policy](runner.info.pair_cost)
    context_tokens = config.model.context_tokens
    return Engine(runner, config.engine, context_tokens, policy=policy, wake=lambda: inbox.put(WakeUp()))


def start_up_line(info: EngineInfo) -> str:
    """Return the engine's first log line: its capacity in tokens and in sessions of full length, and host memory's."""
    sessions = info.capacity_tokens / info.context_tokens
    host = f"; host memory {info.host_slots * info.block_tokens} tokens" if info.host_slots else ""
    return f"KV cache {info.capacity_tokens} tokens: {sessions:.1f} sessions at {info.context_tokens}{host}"
