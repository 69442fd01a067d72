"""Runs a workload's sessions on an engine, as its clients would."""

import asyncio
import time
from array import array
from collections.abc import Iterator
from random import Random
from typing import Any

from roost_gateway.simulator.workload import Session
from roost_operator.calibration.comparison import Figures, measured_figures
from roost_operator.calibration.timed_engine import Answer, TimedEngine


class Replay:
    """One run. Tokens are random; those of a prefix depend on its name, and nothing is shared with another run."""

    def __init__(self, engine: TimedEngine, vocabulary: int, seed: int) -> None:
        self._engine = engine
        self._vocabulary = vocabulary
        self._name = f"replay {seed}"
        self._random = Random(self._name)
        self._cache_key = self._random.randbytes(8)
        self._ttfts: list[float] = []
        self._prompt_tokens = 0
        self._cached_tokens = 0

    async def run(self, sessions: Iterator[Session], population: int, steps: int) -> Figures:
        """Run `population` sessions at any time until `steps` steps have ended.

        Raise EngineDeadError, and ValueError when a step does not fit the engine.
        """
        done = asyncio.Event()
        begin = time.monotonic()
        clients = asyncio.gather(*(self._client(sessions, steps, done) for _ in range(population)))
        enough = asyncio.create_task(done.wait())
        waits: list[asyncio.Future[Any]] = [clients, enough]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            seconds = time.monotonic() - begin
            if not done.is_set():
                clients.result()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        return measured_figures(self._ttfts[:steps], seconds, self._prompt_tokens, self._cached_tokens)

    async def _client(self, sessions: Iterator[Session], steps: int, done: asyncio.Event) -> None:
        for session in sessions:
            try:
                await self._play(session, steps, done)
            finally:
                self._engine.evict(session.name)

    async def _play(self, session: Session, steps: int, done: asyncio.Event) -> None:
        context = self._tokens(Random(f"{self._name} {session.prefix}"), session.prefix_tokens)
        for turn in session.turns:
            await asyncio.sleep(turn.gap_seconds)
            del context[turn.kept_tokens :]
            context.extend(self._tokens(self._random, turn.new_tokens))
            answer = await self._engine.run(session.name, context[:], turn.output_tokens, self._cache_key)
            self._add(answer, len(context))
            context.extend(answer.token_ids)
            if turn.calls_tool:
                self._engine.hold(session.name)
            if len(self._ttfts) == steps:
                done.set()

    def _add(self, answer: Answer, prompt_tokens: int) -> None:
        self._ttfts.append(answer.ttft_seconds)
        self._prompt_tokens += prompt_tokens
        self._cached_tokens += answer.cached_tokens

    def _tokens(self, random: Random, count: int) -> "array[int]":
        return array("I", random.choices(range(self._vocabulary), k=count))
