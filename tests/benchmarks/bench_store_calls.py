"""CPU of a client per script call, for 1, 10 and 50 callers at once: the store's link beside other clients of Redis.

The calls are a Begin and a Commit in turn, as a gateway sends them for a step of 300 prompt ids and 64 output ids, sent
again and again: the scripts then answer what they answered the first time, and write nothing. Redis runs in a process
of its own. Clients go in turn, round by round; figures are microseconds of this process's CPU time, medians of rounds.

- `link`: `RedisLink.script`.
- `redis-py`: `Redis.evalsha`, a connection of the pool for each call.
- `redis-py, pipelines`: the calls of one turn of the event loop in one `Pipeline`.
- `valkey-glide`, `coredis`: where they are installed; Roost does not need them.

    python tests/benchmarks/bench_store_calls.py [--quick]

The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import asyncio
import importlib
import importlib.util
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path[:0] = [
    str(Path(__file__).parents[1] / "support"),
    *(str(Path(__file__).parents[2] / part) for part in ("proto", "gateway", "worker", "operator")),
]

import uvloop
from figures import emit, machine, spread
from redis.asyncio import Redis

from redis_servers import PATIENCE_SECONDS, RedisServer
from roost.store.link import RedisLink
from roost.store.redis_store import RedisStore
from roost.store.scripts import Call, script
from store_driver import begin_request, commit_request, new_session

CALLERS = (1, 10, 50)
Send = Callable[[str, Call], Awaitable[Any]]
"""Runs a script by its name."""
Arguments = tuple[str, list[str], list[Any]]
"""Hash, KEYS and ARGV of a script."""


async def recorded_calls(url: str) -> dict[str, Call]:
    """The calls of a Begin and of a Commit that have been done; sent again they change nothing."""
    link, calls = RedisLink.open(url, socket_timeout=PATIENCE_SECONDS), dict[str, Call]()
    run = link.script

    async def recorded(name: str, call: Call) -> Any:
        calls[name] = call
        return await run(name, call)

    link.script = recorded  # type: ignore[method-assign]
    store = RedisStore(link)
    for name in ("commit", "begin"):
        session_id = (await store.open(new_session(system="x" * 1200))).session_id
        began = await store.begin(begin_request(session_id))
        if name == "commit":
            ids, message = tuple(range(364)), {"role": "user", "content": "x" * 400}
            step = commit_request(
                session_id, began.ref, "step-1", prompt=ids[:300], output=ids[300:], messages=(message,)
            )
            await store.commit(step)
    await store.aclose()
    return calls


def arguments(name: str, call: Call) -> Arguments:
    wanted = script(name)
    return (wanted.sha, *wanted.arguments(call, 0))


@asynccontextmanager
async def link(url: str) -> AsyncIterator[Send]:
    opened = RedisLink.open(url, socket_timeout=PATIENCE_SECONDS, connections=64)
    yield opened.script
    await opened.aclose()


@asynccontextmanager
async def redis_py(url: str) -> AsyncIterator[Send]:
    async with Redis.from_url(url, socket_timeout=PATIENCE_SECONDS) as client:

        async def send(name: str, call: Call) -> Any:
            sha, keys, args = arguments(name, call)
            return await client.evalsha(sha, len(keys), *keys, *args)

        yield send


@asynccontextmanager
async def pipelines(url: str) -> AsyncIterator[Send]:
    async with Redis.from_url(url, socket_timeout=PATIENCE_SECONDS) as client:
        batch: list[tuple[Arguments, asyncio.Future[Any]]] = []
        running = set[asyncio.Task[None]]()

        async def run(calls: list[tuple[Arguments, asyncio.Future[Any]]]) -> None:
            pipeline = client.pipeline(transaction=False)
            for (sha, keys, args), _ in calls:
                pipeline.evalsha(sha, len(keys), *keys, *args)
            for (_, reply), answer in zip(calls, await pipeline.execute(), strict=True):
                reply.set_result(answer)

        def flush() -> None:
            running.add(task := asyncio.create_task(run(batch.copy())))
            task.add_done_callback(running.discard)
            batch.clear()

        async def send(name: str, call: Call) -> Any:
            loop = asyncio.get_running_loop()
            batch.append((arguments(name, call), reply := loop.create_future()))
            if len(batch) == 1:
                loop.call_soon(flush)
            return await reply

        yield send


@asynccontextmanager
async def valkey_glide(url: str) -> AsyncIterator[Send]:
    glide, at = importlib.import_module("glide"), urlsplit(url)
    address = glide.NodeAddress(at.hostname, at.port)
    timeout = int(PATIENCE_SECONDS * 1000)
    client = await glide.GlideClient.create(glide.GlideClientConfiguration([address], request_timeout=timeout))

    async def send(name: str, call: Call) -> Any:
        sha, keys, args = arguments(name, call)
        texts = [arg if isinstance(arg, bytes) else str(arg) for arg in (*keys, *args)]
        return await client.custom_command(["EVALSHA", sha, str(len(keys)), *texts])

    yield send
    await client.close()


@asynccontextmanager
async def coredis(url: str) -> AsyncIterator[Send]:
    async with importlib.import_module("coredis").Redis.from_url(url) as client:
        yield lambda name, call: client.evalsha(*arguments(name, call))


CLIENTS = {"link": link, "redis-py": redis_py, "redis-py, pipelines": pipelines}
OTHERS = {"valkey-glide": ("glide", valkey_glide), "coredis": ("coredis", coredis)}
"""Module of each client that may be missing."""


async def cpu_per_call(client: Any, url: str, calls: dict[str, Call], callers: int, count: int) -> float:
    """Microseconds of CPU for each of about `count` calls by so many callers."""
    each = count // callers
    async with AsyncExitStack() as stack:
        send: Send = await stack.enter_async_context(client(url))

        async def call_on(times: int) -> None:
            for number in range(times):
                name = ("begin", "commit")[number % 2]
                reply = await send(name, calls[name])
                assert reply[0] in (b"began", b"committed"), reply

        await asyncio.gather(*(call_on(4) for _ in range(callers)))
        before = _cpu_seconds()
        await asyncio.gather(*(call_on(each) for _ in range(callers)))
        return (_cpu_seconds() - before) * 1e6 / (each * callers)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="3 rounds of 500 calls instead of 5 of 2,000")
    rounds, count = (3, 500) if parser.parse_args().quick else (5, 2000)
    there = {name: client for name, (module, client) in OTHERS.items() if importlib.util.find_spec(module)}
    clients, versions = CLIENTS | there, {name: version(name) for name in ("redis", "hiredis", *there)}
    print(f"{machine()}; {versions}")
    document: dict[str, Any] = {"machine": machine(), "versions": versions, "cpu_us": {}}
    with RedisServer() as server:
        calls = uvloop.run(recorded_calls(server.url))
        for callers in CALLERS:
            times: dict[str, list[float]] = {name: [] for name in clients}
            for _ in range(rounds):
                for name, client in clients.items():
                    times[name].append(uvloop.run(cpu_per_call(client, server.url, calls, callers, count)))
            figures = document["cpu_us"][callers] = {name: spread(values) for name, values in times.items()}
            for name, figure in figures.items():
                print(
                    f"{callers:3} callers, {name:20} {figure['median']:6} ({figure['lowest']} to {figure['highest']})"
                )
    emit(document)


if __name__ == "__main__":
    main()
