"""The engine's own loop: takes messages, steps, says what came of it. Runs in a thread or as rank 0's main."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from roost_worker.config import WorkerConfig
from roost_worker.engine.engine import Engine
from roost_worker.engine.messages import EngineInfo, EngineMessage, Outputs
from roost_worker.engine.plan import Runner
from roost_worker.engine.retention import POLICIES
from roost_worker.seam.report import StatsReporter

HEARTBEAT_SECONDS = 0.25
"""Longest silence of an idle loop."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The loop turns, though it has nothing to say."""


@dataclass(frozen=True, slots=True)
class Close:
    """Ends the loop."""


@dataclass(frozen=True, slots=True)
class WakeUp:
    """The engine has something to do though no message came."""


Inbox = SimpleQueue[EngineMessage | Close | WakeUp]


@dataclass(slots=True)
class EngineLoop:
    """Blocks on `inbox` when idle; one call of `say` per engine step, and Heartbeat in between."""

    engine: Engine
    inbox: Inbox
    say: Callable[[Outputs | Heartbeat], None]
    reporter: StatsReporter = field(default_factory=StatsReporter)

    def run(self) -> None:
        """Returns at Close. Raises what the engine raises."""
        busy = False
        said = time.monotonic()
        while self._take_messages(busy):
            outputs = self.engine.iterate()
            busy = outputs is not None
            if outputs is not None or time.monotonic() - said >= HEARTBEAT_SECONDS:
                self.reporter.report(outputs.stats if outputs else self.engine.stats)
                self.say(outputs or Heartbeat())
                said = time.monotonic()

    def _take_messages(self, busy: bool) -> bool:
        """Handles all messages that are there, waiting for the first if not `busy`. Returns False at Close."""
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
    """The engine that `config` asks for, which wakes its loop through `inbox`.

    Raises ValueError when the runner's KV memory holds no block.
    """
    policy = POLICIES[config.kv.eviction_policy]()
    context_tokens = config.model.context_tokens
    return Engine(runner, config.engine, context_tokens, policy=policy, wake=lambda: inbox.put(WakeUp()))


def start_up_line(info: EngineInfo) -> str:
    """What the engine says first: its capacity in tokens and in sessions of full length."""
    sessions = info.capacity_tokens / info.context_tokens
    return f"KV cache {info.capacity_tokens} tokens: {sessions:.1f} sessions at {info.context_tokens}"
