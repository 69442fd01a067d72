"""Why steps are slow, as they go through a real worker with little room. Gateway, worker, engine and Redis are real,
the model is a script."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import yaml

import worker_harness
from gateway_driver import Caller, gateway, publish_pool, step_request
from redis_servers import RedisServer
from roost.contract.api_keys import hash_api_key
from roost.contract.why import KvEviction, Place, RebuildCause, Why
from roost.v1 import session_service_pb2 as pb
from roost.wire_why import why_from_wire
from roost_gateway.fleet import grace
from roost_worker.engine.policies import DEFAULT_POLICY
from worker_harness import SECRET, World, scripted_world, worker_config

POOL = worker_harness.POOL
BLOCKS = 16
"""Room for one of the sessions here, and half of another."""
LONG = 100
"""A message of so many tokens takes more than a third of the worker's KV."""


class Small:
    """A worker with little room, two gateways, and a caller for each of two tenants at the first."""

    def __init__(self, worker: World, callers: dict[str, Caller], other: Caller) -> None:
        self.worker, self.other = worker, other
        self._callers, self._count = callers, 0

    async def open(self, tenant: str) -> pb.Session:
        return await self._callers[tenant].open(pool=POOL)

    async def step(self, tenant: str, session: pb.Session, text: str = "") -> Why:
        """Takes a step; without a text, with a long one that no other session has."""
        self._count += 1
        text = text or f"{self._count}" * LONG
        request = step_request(session, f"s{self._count}", text, sampling=pb.Sampling(seed=1, max_tokens=8))
        log = await self._callers[tenant].step(request)
        assert log.committed is not None
        return why_from_wire(log.committed.why)

    async def fork(self, tenant: str, session: pb.Session) -> pb.Session:
        caller = self._callers[tenant]
        request = pb.ForkSessionRequest(session_id=session.id)
        return (await caller.stub.ForkSession(request, metadata=caller.metadata)).session

    async def evict(self, tenant: str, session: pb.Session) -> None:
        caller = self._callers[tenant]
        await caller.stub.EvictSession(pb.EvictSessionRequest(session_id=session.id), metadata=caller.metadata)

    async def steps_elsewhere(self, session: pb.Session, first_index: int = 0) -> list[pb.CommittedStep]:
        """The log as the second gateway reads it."""
        request = pb.ListStepsRequest(session_id=session.id, first_index=first_index)
        return list((await self.other.stub.ListSteps(request, metadata=self.other.metadata)).steps)


@pytest.fixture
async def small(redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Small]:
    monkeypatch.setattr(grace, "WAIT_SECONDS", 0.0)
    publish_pool(redis_server, POOL, model={"name": "m", "contextTokens": 256})
    keys = [{"id": name, "sha256": hash_api_key(name), "tenant": name, "pools": [POOL]} for name in ("ours", "theirs")]
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"keys": keys}))
    options = {"pool_secrets": {POOL: SECRET}, "api_keys_file": tmp_path / "keys.yaml"}
    async with AsyncExitStack() as stack:
        config = worker_config(redis_server.url, tmp_path)
        worker = await stack.enter_async_context(scripted_world(config, blocks=BLOCKS + 1))
        worker.script(1, "ok")
        first = await stack.enter_async_context(gateway(redis_server, **options))
        second = await stack.enter_async_context(gateway(redis_server, **options))
        callers = {name: Caller(first.address, name) for name in ("ours", "theirs")}
        other = Caller(second.address, "ours")
        for caller in (*callers.values(), other):
            stack.push_async_callback(caller.aclose)
        yield Small(worker, callers, other)


async def test_a_session_evicted_for_the_growth_of_another_is_told_so(small: Small) -> None:
    session, growing = await small.open("ours"), await small.open("ours")
    first = await small.step("ours", session)
    assert first.line == "the session's first step"
    await small.step("ours", growing)
    kept = await small.step("ours", growing, "more")
    assert (kept.rebuilt_tokens, kept.cause, kept.place) == (0, None, Place.HOME)

    why = await small.step("ours", session, "go on")

    assert why.cause is RebuildCause.EVICTED_FOR_ROOM
    assert why.eviction is not None
    assert (why.eviction.for_session, why.eviction.policy) == (growing.id, DEFAULT_POLICY)
    assert why.cached_tokens + why.rebuilt_tokens == why.log_tokens - 1
    assert why.rebuilt_tokens <= why.eviction.tokens
    assert why.eviction.rebuild_seconds > 0.0
    assert re.fullmatch(
        rf"{why.rebuilt_tokens} of {why.log_tokens} tokens rebuilt: evicted \d+\.\d s ago for session {growing.id}'s "
        rf"growth \({DEFAULT_POLICY}, \d+\.\d s to rebuild\)",
        why.line,
    )


async def test_the_session_of_another_tenant_is_not_named(small: Small) -> None:
    session, growing = await small.open("ours"), await small.open("theirs")
    await small.step("ours", session)
    await small.step("theirs", growing)
    await small.step("theirs", growing, "more")
    why = await small.step("ours", session, "go on")
    assert why.cause is RebuildCause.EVICTED_FOR_ROOM
    assert why.eviction is not None
    assert why.eviction.for_session == ""
    assert "for another session's growth" in why.line
    (*_, stored) = await small.steps_elsewhere(session)
    assert growing.id.encode() not in stored.SerializeToString()


async def test_what_was_evicted_on_request_says_when(small: Small) -> None:
    session = await small.open("ours")
    await small.step("ours", session)
    await small.evict("ours", session)
    why = await small.step("ours", session, "go on")
    assert (why.cause, why.place) == (RebuildCause.EVICTED_ON_REQUEST, Place.NO_HOME)
    assert isinstance(why.eviction, KvEviction)
    assert why.eviction.requested
    assert re.search(r"tokens rebuilt: evicted on request \d+\.\d s ago$", why.line)


async def test_a_fork_computes_less_than_a_block_again(small: Small) -> None:
    session = await small.open("ours")
    await small.step("ours", session)
    why = await small.step("ours", await small.fork("ours", session), "go on")
    assert (why.place, why.cause) == (Place.HOME, RebuildCause.BLOCK_END)
    assert 0 < why.rebuilt_tokens < small.worker.runner.info.block_tokens


async def test_every_gateway_reads_why_later_and_old_entries_say_nothing(small: Small) -> None:
    session = await small.open("ours")
    lines = [await small.step("ours", session), await small.step("ours", session, "go on")]
    assert [why_from_wire(step.why) for step in await small.steps_elsewhere(session)] == lines
    assert [step.index for step in await small.steps_elsewhere(session, first_index=1)] == [1]
