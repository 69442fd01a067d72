"""Malformed bodies over real HTTP: recorded requests of agent clients, each with some places replaced by odd JSON.

They go to a gateway over a real worker whose model is played. The run fails when an answer is a 5xx, when a body breaks
off, or when a session has a running step at the end.

    python tests/benchmarks/bench_malformed_bodies.py [--requests 10000] [--seed 1]

The last line of stdout is one JSON document: how many answers had which status.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import asyncio
import copy
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("proto", "gateway", "worker", "operator", "tests/support")]

from figures import emit, machine

from agent_stack import AgentStack, agent_stack
from http_client import ask
from played_agent import answer
from redis_servers import RedisServer
from wire_requests import FOLDER, WireRequest, requests_of

AT_ONCE = 8
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1.5, 10**30, "", " ", "auto", "é\u200b", "x" * 3000, "\ud800", [], [None], [[]], {}),
    *({"type": "text"}, {"type": "function"}, [{"role": "user"}], {"role": "assistant", "content": []}),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything in a JSON value."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield (*path, key)
        yield from places(member, (*path, key))


def path_of(request: WireRequest) -> str:
    if "input" in request.body:
        return "/v1/responses"
    is_anthropic = any(name.startswith("anthropic") for name in request.headers) or "system" in request.body
    return "/v1/messages" if is_anthropic else "/v1/chat/completions"


def malformed(body: dict[str, Any], rng: random.Random) -> bytes:
    """A body with one to three places replaced or taken away; some are cut off as text."""
    changed: Any = copy.deepcopy(body)
    for _ in range(rng.randint(1, 3)):
        *path, last = rng.choice(list(places(changed)) or [()]) or [None]
        parent = changed
        for key in path:
            parent = parent[key]
        if last is None:
            continue
        if rng.random() < 0.3:
            del parent[last]
        else:
            parent[last] = copy.deepcopy(rng.choice(ODD))
    raw = json.dumps(changed).encode()
    return raw[: rng.randrange(len(raw))] if rng.random() < 0.05 else raw


async def send_all(stack: AgentStack, count: int, rng: random.Random) -> Counter[int]:
    recorded = [request for file in sorted(FOLDER.glob("*.jsonl")) for request in requests_of(file.stem)]
    statuses, address = Counter[int](), stack.http.removeprefix("http://")

    async def send(number: int) -> None:
        request = rng.choice(recorded)
        body = malformed({**request.body, "max_tokens": 8, "model": ""}, rng)
        got = await ask(address, "POST", path_of(request), body, content_type="application/json")
        if got.status >= 500 or not got.is_complete:
            raise SystemExit(f"request {number} got {got.status}: {got.body[:300]!r}; it was {body[:2000]!r}")
        statuses[got.status] += 1

    for first in range(0, count, AT_ONCE):
        await asyncio.gather(*(send(number) for number in range(first, min(first + AT_ONCE, count))))
    return statuses


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with RedisServer() as redis, tempfile.TemporaryDirectory() as folder:
        async with agent_stack(redis, Path(folder), answer) as stack:
            statuses = await send_all(stack, options.requests, random.Random(options.seed))
            running = [session.id for session in await stack.sessions() if session.running_step_id]
    if running:
        raise SystemExit(f"steps run in {len(running)} sessions: {running[:3]}")
    emit({"benchmark": "malformed_bodies", "machine": machine(), "statuses": dict(sorted(statuses.items()))})


if __name__ == "__main__":
    asyncio.run(main())
