"""Sessions on hold are rebuilt before they come back. Gateways, worker, engine and Redis are real, the model is a
script."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fault_stack import until
from gateway_driver import step_request
from redis_servers import RedisServer
from roost.store.records import Descriptor
from roost.v1 import session_service_pb2 as pb
from roost_gateway.fleet import grace
from roost_gateway.moving import paused, pauses
from roost_gateway.moving.paused import LEAD_SECONDS
from roost_gateway.moving.rebuild import RebuildError, RebuildFailure
from roost_worker.server.rebuilt_ahead import RebuiltAhead
from small_worker import Small, small_worker


@pytest.fixture
async def small(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Small]:
    monkeypatch.setattr(grace, "WAIT_SECONDS", 0.0)
    async with small_worker(redis_server, tmp_path, rebuildAhead=getattr(request, "param", "Held")) as small:
        yield small


async def evicted(small: Small) -> pb.Session:
    """A session on hold that has lost KV to another, which nobody holds."""
    session, other = await small.open("ours"), await small.open("ours")
    await small.step("ours", session)
    await small.hold("ours", session, expect_seconds=LEAD_SECONDS)
    await small.step("ours", other, "x" * 180)
    return session


def ahead(small: Small) -> RebuiltAhead:
    return small.worker.server.shell.rebuilds.ahead


async def soon(holds: Callable[[], object], what: str) -> None:
    async def check() -> bool:
        return bool(holds())

    await until(check, what)


async def look(small: Small, monkeypatch: pytest.MonkeyPatch) -> list[asyncio.Task[None]]:
    """Has the gateway look at the worker, which is idle and has published what it has. Returns the rebuilds begun."""
    await soon(lambda: small.worker.server.shell.has_nothing_to_do, "the worker to be idle")
    await small.worker.server._publish()
    monkeypatch.setattr(paused, "SETTLE_SECONDS", 0.0)
    await small.gateway.life.fleet.read(0)
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("rebuild ahead at")]


async def test_a_session_comes_back_to_what_was_rebuilt_ahead(small: Small) -> None:
    session = await evicted(small)
    await soon(lambda: ahead(small).rebuilt, "the session to be rebuilt")
    tokens = ahead(small).rebuilt
    why = await small.step("ours", session, "go on")
    assert (why.rebuilt_tokens, why.ahead_tokens) == (0, tokens)
    assert re.fullmatch(rf"none of {why.log_tokens} tokens rebuilt; {tokens} had been rebuilt ahead of it", why.line)
    assert (ahead(small).used, ahead(small).wasted) == (tokens, 0)


async def test_a_step_that_comes_during_a_rebuild_ahead_goes_on_from_what_it_has(small: Small) -> None:
    session = await evicted(small)
    small.worker.gate.close()
    await small.worker.gate.reached()
    assert len(small.worker.server.shell.rebuilds) == 1
    step = asyncio.create_task(small.step("ours", session, "go on"))
    await soon(lambda: not small.worker.server.shell.rebuilds, "the rebuild to end for the step")
    small.worker.gate.open()
    why = await step
    assert why.rebuilt_tokens == 0
    assert why.ahead_tokens == ahead(small).used > 0


@pytest.mark.parametrize(
    ("small", "waits", "begun"), [("Never", False, 0), ("Held", True, 0), ("Held", False, 1)], indirect=["small"]
)
async def test_a_rebuild_begins_where_the_pool_says_so_and_no_step_waits(
    small: Small, waits: bool, begun: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await evicted(small)
    monkeypatch.setattr(small.gateway.life.steps, "any_waits", lambda pool: waits)
    assert len(await look(small, monkeypatch)) == begun


async def test_a_home_that_declines_a_session_is_asked_for_the_next(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def declines(session: Descriptor, *_: object, **__: object) -> int:
        asked.append(session.session_id)
        raise RebuildError(RebuildFailure.NOT_NOW, "what is cached is worth more")

    monkeypatch.setattr(pauses, "rebuild", declines)
    first, second, other = [await small.open("ours") for _ in range(3)]
    for session in (first, second):
        await small.step("ours", session)
        await small.hold("ours", session, LEAD_SECONDS)
    await small.step("ours", other, "x" * 215)
    await soon(lambda: {first.id, second.id} <= set(asked), "the home to be asked for both")


async def test_a_session_that_came_back_through_another_gateway_is_not_rebuilt(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, other = await small.open("ours"), await small.open("ours")
    await small.step("ours", session)
    await small.hold("ours", session, LEAD_SECONDS)
    await small.other.step(step_request(session, "elsewhere", sampling=pb.Sampling(seed=1, max_tokens=8)))
    await small.step("ours", other, "x" * 180)
    before = (await small.worker.state()).prefilled_tokens
    await asyncio.wait(await look(small, monkeypatch))
    assert (await small.worker.state()).prefilled_tokens == before
    assert await look(small, monkeypatch) == [], "the pause is forgotten"
