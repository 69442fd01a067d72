"""Clients that keep a journal of every step they sent and every step they were told is committed."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from roost import Client, Committed, Delta, Restarted, Session, Started, user
from roost_operator.demo.journal import Journal, Receipt, compare

SHORT, MEDIUM = 8, 60
"""Tokens of a step: one that ends soon, and one that ends within a drain."""
LONG_SECONDS = 8.0
"""How long a step should take that is still to run when something is killed."""
FEWEST_LONG, MOST_LONG = 160, 500
"""Bounds of such a step's tokens; the sample's role allows 512."""
STEP_SECONDS = 300.0
PAUSE_SECONDS = 0.3
"""An agent's own work between two steps."""
LONGEST_LOG = 1500


@dataclass
class Talk:
    """One session and its journal."""

    session: Session
    journal: Journal
    number: int = 0
    workers: list[str] = field(default_factory=list)
    """Who began or took over the steps, in order."""
    restarts: int = 0
    tokens_per_second: float = 0.0
    """Of the last step, from its call to its end."""
    _tokens: int = 0
    _streamed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def say(self, text: str, tokens: int = SHORT) -> Receipt:
        """One step of exactly `tokens` tokens. Raises RoostError when it could not be had."""
        self.number += 1
        step_id = f"step-{self.number}"
        self.journal.send(self.session.id, step_id)
        self._tokens, words, starts, began = 0, "", 0, time.monotonic()
        ids: list[int] = []
        step = self.session.step(
            [user(text)], step_id=step_id, max_tokens=tokens, ignore_eos=True, temperature=0.0, deadline=STEP_SECONDS
        )
        async for event in step:
            match event:
                case Started():
                    starts += 1
                    self.workers.append(event.worker)
                case Restarted():
                    self.restarts += 1
                    ids, words = [], ""
                case Delta():
                    ids, words = [*ids, *event.token_ids], words + event.text
                case Committed():
                    receipt = Receipt.of(self.session.id, event, tuple(ids), words, starts)
                    self.journal.receive(receipt)
                    self.tokens_per_second = len(ids) / (time.monotonic() - began)
                    return receipt
            await self._tell(len(ids))
        raise AssertionError("a step's last event is Committed")

    async def tell_a_story(self) -> "asyncio.Task[Receipt]":
        """Return a step that takes about `LONG_SECONDS` on this machine, once it has streamed its first tokens."""
        await self.say("Begin.", MEDIUM)
        tokens = min(MOST_LONG, max(FEWEST_LONG, round(self.tokens_per_second * LONG_SECONDS)))
        running = asyncio.create_task(self.say("Tell me a long story.", tokens))
        await self.streaming()
        return running

    async def streaming(self, tokens: int = 4) -> str:
        """Waits until the running step has streamed some tokens; returns its worker."""
        async with self._streamed, asyncio.timeout(STEP_SECONDS):
            await self._streamed.wait_for(lambda: self._tokens >= tokens)
        return self.workers[-1]

    async def _tell(self, tokens: int) -> None:
        async with self._streamed:
            self._tokens = tokens
            self._streamed.notify_all()


@dataclass
class Traffic:
    """Talks of one client under one journal."""

    client: Client
    journal: Journal
    talks: list[Talk] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def begin(cls, client: Client, folder: Path) -> AsyncIterator[Self]:
        """At the end of the block everything that was said is compared with the committed logs."""
        with Journal(folder / "journal.jsonl") as journal:
            traffic = cls(client, journal)
            yield traffic
            await traffic.verify()

    async def open(self, system: str = "You are terse.", role: str = "coder") -> Talk:
        """A new session."""
        talk = Talk(await self.client.open(role=role, system=system), self.journal)
        self.talks.append(talk)
        return talk

    @asynccontextmanager
    async def flowing(self, sessions: int = 2) -> AsyncIterator[None]:
        """Sessions that say something again and again while the block runs; each finishes the step it is at."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number in range(sessions):
                group.create_task(self._flow(number, stop))
            try:
                yield
            finally:
                stop.set()

    async def _flow(self, number: int, stop: asyncio.Event) -> None:
        talk = await self.open()
        while not stop.is_set():
            receipt = await talk.say(f"Agent {number} says {talk.number}.")
            if receipt.head_length > LONGEST_LOG:
                talk = await self.open()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), PAUSE_SECONDS)

    async def verify(self) -> None:
        """Reads all logs back. Raises AssertionError when a step was lost, doubled or changed."""
        logs = {
            talk.session.id: [step async for step in talk.session.steps(include_token_ids=True)] for talk in self.talks
        }
        findings = compare(self.journal, logs)
        assert findings.clean, findings
