"""Recognition of conversations: whether it ever joins what does not belong together, and what it costs.

Three parts:

- joins: many conversations at once, of two tenants, some named by their clients, with a handful of equal openings,
  run through the gateway's own recognition over sessions and an index in memory. Replies have calls with unique ids,
  or texts of which some are equal, and clients write their turns down again as real ones do. After each step the
  session's log must be what its client has said and heard, which a trie of histories decides, apart from any hash; a
  step whose log is another is a wrong join, and the run fails. `--at-once` conversations share an index, which is then
  dropped.
- lookups: what an index in Redis with so many sessions costs: a request of 64 boundaries that knows one of them, or
  none, and what a commit writes. The cost must not grow with the number of sessions.
- hashes: CPU time of the canonical form and the chain of a whole conversation, by its size.

    python tests/benchmarks/bench_recognition.py [--conversations 1000000] [--at-once 20000] [--sessions 1000000]

The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in ("proto", "gateway", "operator", "tests/support")]

from figures import emit, machine, percentiles

from played_sessions import POOL, PlayedGateway, PlayedSession, played_conversations
from redis_servers import RedisServer
from rewriting_clients import KEEP_RESULTS
from roost.contract.events import Committed
from roost.contract.heads import Head
from roost.contract.messages import Message, MessageRole, ToolCall, ToolDefinition
from roost.contract.names import new_session_id
from roost.contract.steps import StepRequest
from roost.store.conversation_index import MAX_KEYS, IndexEntry, IndexWrite
from roost.store.redis_store import RedisStore, connect
from roost_gateway.core.caller import Caller
from roost_gateway.core.conversations import Conversations
from roost_gateway.recognition.canonical import cleaned
from roost_gateway.recognition.conversation import Conversation
from roost_gateway.recognition.turn import turn

U, A, T = MessageRole.USER, MessageRole.ASSISTANT, MessageRole.TOOL
OPENINGS = ("Fix the tests.", "Summarise this.", "hello")
TENANTS = ("a", "b")
NAMED_SHARE = 0.3
"""Of conversations that their clients name."""
EQUAL_TEXTS, TEXTS = ("Done.", "Yes."), 1000
MOST_ROUNDS = 4
CALLS, MEASURED_BOUNDARIES, BATCH = 300, 2, 250
HOUR_MS = 3_600_000


class Histories:
    """A trie of histories: equal histories, and only they, are one node."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, object], int] = {}

    def then(self, node: int, said: object) -> int:
        return self._nodes.setdefault((node, said), len(self._nodes) + 1)


@dataclass(slots=True)
class Client:
    """A conversation at its client."""

    tenant: str
    family: str
    rewrite: str
    history: list[Message]
    node: int
    rounds: int


def said_in(message: Message) -> object:
    if message.tool_calls:
        return tuple(call.id for call in message.tool_calls)
    return (message.role.value, message.tool_call_id, message.content.strip())


class Joins:
    """One batch of conversations that run at once."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._histories = Histories()
        self._logs: dict[str, tuple[int, int]] = {}
        """Node of each session's log, and how many steps it has."""
        self.matches = Counter[str]()
        self.wrong = 0
        self.equal = 0
        """Steps in a session that an equal conversation had before."""
        self._owners: dict[str, int] = {}

    async def run(self, count: int) -> None:
        conversations, gateway = played_conversations(self._reply)
        clients = [self._client(number) for number in range(count)]
        waiting = list(range(count))
        while waiting:
            self._rng.shuffle(waiting)
            for number in waiting:
                await self._round(conversations, gateway, number, clients[number])
            waiting = [number for number in waiting if clients[number].rounds]
        await conversations.aclose()

    def _client(self, number: int) -> Client:
        tenant, opening = self._rng.choice(TENANTS), Message(U, self._rng.choice(OPENINGS))
        family = f"run-{number}" if self._rng.random() < NAMED_SHARE else ""
        node = self._histories.then(self._histories.then(0, tenant), said_in(opening))
        rewrite, rounds = self._rng.choice(list(KEEP_RESULTS)), self._rng.randint(2, MOST_ROUNDS)
        return Client(tenant, family, rewrite, [opening], node, rounds)

    def _reply(self, session: PlayedSession, request: StepRequest) -> Message:
        draw = self._rng.random()
        if draw < 0.6:
            count = 1 + (draw < 0.2)
            calls = (ToolCall(f"{session.id}.{len(session.log)}.{n}", "read", '{"n": 1.50}') for n in range(count))
            return Message(A, "Looking.", tuple(calls))
        texts = EQUAL_TEXTS if draw < 0.7 else [f"text {self._rng.randrange(TEXTS)}"]
        return Message(A, self._rng.choice(texts))

    async def _round(self, conversations: Conversations, gateway: PlayedGateway, number: int, client: Client) -> None:
        sent = KEEP_RESULTS[client.rewrite](client.history, self._rng)
        asked = Conversation(POOL, "Be brief.", messages=tuple(sent), family=client.family)
        async with conversations.step(asked, Caller(client.tenant, frozenset("*"))) as step:
            *_, committed = [event async for event in step.events]
        assert isinstance(committed, Committed)
        output = committed.output
        client.node = self._histories.then(client.node, said_in(output))
        session = gateway.sessions[step.recognised.session_id]
        self.matches[step.recognised.match.value] += 1
        self.wrong += self._log(session) != client.node or session.opened.task != client.family
        self.equal += self._owners.setdefault(session.id, number) != number
        self._owners[session.id] = number
        client.history.append(output)
        client.rounds -= 1
        answers = [Message(T, "result", tool_call_id=call.id) for call in output.tool_calls]
        for message in answers or [Message(U, self._rng.choice(("go on", f"{self._rng.random()}")))]:
            client.history.append(message)
            client.node = self._histories.then(client.node, said_in(message))

    def _log(self, session: PlayedSession) -> int:
        """The node of a session's log: its tenant, then all that was said. Echoes of calls are the calls."""
        node, steps = self._logs.get(session.id) or (self._histories.then(0, session.tenant), 0)
        for step in session.log[steps:]:
            for message in (*step.messages, step.output):
                if message.role is not A or message.tool_calls or not _is_empty(message):
                    node = self._histories.then(node, said_in(message))
        self._logs[session.id] = node, len(session.log)
        return node


def _is_empty(message: Message) -> bool:
    return not message.content.strip() or message.content.startswith("<think>")


async def joins(conversations: int, at_once: int, seed: int) -> dict[str, Any]:
    rng, matches, wrong, equal, began = random.Random(seed), Counter[str](), 0, 0, time.monotonic()
    for first in range(0, conversations, at_once):
        batch = Joins(rng)
        await batch.run(min(at_once, conversations - first))
        matches, wrong, equal = matches + batch.matches, wrong + batch.wrong, equal + batch.equal
        print(f"{first + at_once} conversations, {wrong} wrong joins, {dict(matches)}", file=sys.stderr)
    return {
        "conversations": conversations,
        "at_once": at_once,
        "steps": matches.total(),
        "wrong_joins": wrong,
        "steps_among_equal_histories": equal,
        "matches": dict(matches),
        "seconds": round(time.monotonic() - began, 1),
    }


def entry(units: int) -> IndexEntry:
    return IndexEntry(new_session_id(POOL), Head(4096, os.urandom(16), 1), units, os.urandom(16), os.urandom(16))


async def fill(store: RedisStore, sessions: int) -> bytes:
    """Adds the points of so many sessions. Returns a key of the last."""
    key = b""
    for first in range(0, sessions, BATCH):
        writes = [
            IndexWrite(os.urandom(16), entry(2 + number % 7), HOUR_MS)
            for number in range(min(BATCH, sessions - first) * MEASURED_BOUNDARIES)
        ]
        await store.conversations.remember(POOL, writes)
        key = writes[-1].key
    return key


async def measured(store: RedisStore, known: bytes) -> dict[str, Any]:
    """Milliseconds of a known request, of an unknown request, and of a commit."""
    times: dict[str, list[float]] = {"known": [], "unknown": [], "commit": []}
    for _ in range(CALLS):
        unknown = [os.urandom(16) for _ in range(MAX_KEYS)]
        at = entry(4)
        writes = [IndexWrite(os.urandom(16), at, HOUR_MS) for _ in range(4)]
        for name, call in (
            ("known", store.conversations.find(POOL, [*unknown[1:], known])),
            ("unknown", store.conversations.find(POOL, unknown)),
            ("commit", store.conversations.remember(POOL, writes)),
        ):
            began = time.perf_counter()
            await call
            times[name].append((time.perf_counter() - began) * 1000)
    return {name: percentiles(values) for name, values in times.items()}


async def lookups(most: int) -> list[dict[str, Any]]:
    rows, sessions = list[dict[str, Any]](), 0
    with RedisServer({"appendonly": "no"}) as server:
        store = await connect(server.url, socket_timeout=30.0)
        try:
            size = 1000
            while size <= most:
                known = await fill(store, size - sessions)
                sessions = size
                rows.append({"sessions": size, **await measured(store, known)})
                print(rows[-1], file=sys.stderr)
                size *= 10
        finally:
            await store.aclose()
    return rows


def hashes() -> list[dict[str, Any]]:
    rows = list[dict[str, Any]]()
    for messages, characters in ((1, 40_000), (40, 1000), (200, 1000), (500, 400), (500, 4000)):
        asked = conversation(messages, characters)
        times = list[float]()
        for _ in range(30):
            began = time.process_time()
            turn(cleaned(asked), "tenant", POOL)
            times.append((time.process_time() - began) * 1000)
        size = sum(len(message.content) for message in asked.messages)
        rows.append({"messages": len(asked.messages), "characters": size, "ms": percentiles(times)})
    return rows


def conversation(messages: int, characters: int) -> Conversation:
    """Rounds of a call and its result, with 12 tools of 2.5 kB as Claude Code sends them."""
    spoken: list[Message] = []
    for number in range(messages // 2):
        call = ToolCall(f"call_{number}", "read", f'{{"path": "/repo/file{number}.txt", "limit": 20}}')
        spoken += [Message(A, "Looking at it.", (call,)), Message(T, "y" * characters, tool_call_id=call.id)]
    tools = tuple(ToolDefinition(f"tool{number}", "d" * 500, "{}".ljust(2000)) for number in range(12))
    return Conversation("m", "s" * 8000, tools, (Message(U, "x" * characters), *spoken))


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=1_000_000)
    parser.add_argument("--at-once", type=int, default=20_000)
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    document = {
        "benchmark": "recognition",
        "machine": machine(),
        "hashes": hashes(),
        "lookups": asyncio.run(lookups(options.sessions)),
    }
    joined = asyncio.run(joins(options.conversations, options.at_once, options.seed))
    emit({**document, "joins": joined})
    if joined["wrong_joins"]:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
